//! Servers for the daemon to connect to.

mod checked;
mod dns;
mod echo;
mod nginx;
mod proxy_header;
mod sample;
mod scripted;

pub use checked::Checked;
pub use dns::DnsServer;
pub use echo::Echo;
pub use nginx::Nginx;
pub use proxy_header::ProxyHeader;
pub use sample::Sample;
pub use scripted::Scripted;
