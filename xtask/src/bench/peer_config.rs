//! The configurations: for every proxy two workers, the same backlog, TCP_NODELAY (all have it by default), the same limit of
//! sessions, no idle timeout in reach, and where there are two targets the same health checks as landbridge's defaults.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::contender::{BACKLOG, Route, WORKERS};

/// landbridge's own; `admin`: where it offers metrics, if it does.
pub(crate) fn landbridge(routes: &[Route], datapath: &str, admin: Option<SocketAddr>, sessions: usize) -> String {
    let admin = admin.map_or("off".to_owned(), |address| address.to_string());
    let mut text = format!(
        "[runtime]\nworkers = {WORKERS}\ndrain_timeout = \"0s\"\n\n[admin]\nlisten = \"{admin}\"\nsocket = \"off\"\n"
    );
    for (index, route) in routes.iter().enumerate() {
        let tiers = 0..route.targets.len();
        let groups: Vec<String> = tiers.map(|tier| format!("\"route{index}-tier{tier}\"")).collect();
        let (listen, groups) = (route.listen, groups.join(", "));
        text += &format!(
            "\n[[listener]]\nname = \"route{index}\"\nbind = [\"{listen}\"]\ngroups = [{groups}]\n\
             datapath = \"{datapath}\"\nmax_connections = {sessions}\n"
        );
        for (tier, target) in route.targets.iter().enumerate() {
            text += &format!(
                "\n[[group]]\nname = \"route{index}-tier{tier}\"\ntier = {tier}\n\
                 [[group.target]]\naddress = \"{target}\"\n"
            );
        }
    }
    text
}

/// HAProxy's.
pub(crate) fn haproxy(routes: &[Route], splice: bool, sessions: usize) -> String {
    let splice = if splice { "    option splice-auto\n" } else { "" };
    let mut text = format!(
        "global\n    nbthread {WORKERS}\n    maxconn {sessions}\n\n\
         defaults\n    mode tcp\n{splice}    option redispatch 1\n    retries 2\n    backlog {BACKLOG}\n    \
         maxconn {sessions}\n    timeout connect 1s\n    timeout client 1h\n    timeout server 1h\n"
    );
    for (index, route) in routes.iter().enumerate() {
        text += &format!("\nlisten route{index}\n    bind {}\n", route.listen);
        for (order, target) in route.targets.iter().enumerate() {
            let backup = if order == 0 { "" } else { " backup" };
            let check = if route.targets.len() > 1 { " check inter 2s fastinter 500ms rise 2 fall 3" } else { "" };
            text += &format!("    server target{order} {target}{check}{backup}\n");
        }
    }
    text
}

/// nginx's, with the stream module. It asks no target for its health; it leaves one out after a failed connection.
pub(crate) fn nginx(routes: &[Route], module: &Path, folder: &Path, sessions: usize) -> String {
    let (module, folder) = (module.display(), folder.display());
    let mut text = format!(
        "load_module {module};\ndaemon off;\nuser root;\npid {folder}/nginx-stream.pid;\n\
         worker_processes {WORKERS};\nevents {{ worker_connections {}; }}\nstream {{\n",
        2 * sessions,
    );
    for (index, route) in routes.iter().enumerate() {
        text += &format!("    upstream route{index} {{\n");
        for (order, target) in route.targets.iter().enumerate() {
            let backup = if order == 0 { "" } else { " backup" };
            text += &format!("        server {target}{backup};\n");
        }
        text += &format!(
            "    }}\n    server {{\n        listen {} backlog={BACKLOG} reuseport;\n        proxy_pass route{index};\n        \
             proxy_connect_timeout 1s;\n        proxy_timeout 1h;\n        tcp_nodelay on;\n    }}\n",
            route.listen
        );
    }
    text + "}\n"
}

/// Envoy's.
pub(crate) fn envoy(routes: &[Route], sessions: usize) -> Result<String> {
    let listeners: Vec<Value> = routes.iter().enumerate().map(envoy_listener).collect();
    let clusters: Vec<Value> = routes.iter().enumerate().map(|route| envoy_cluster(route, sessions)).collect();
    let resources = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
    serde_json::to_string_pretty(&resources).context("cannot write Envoy's configuration")
}

/// nginx as a target that serves files. It writes an answer in one piece, as application servers do: with `sendfile` the
/// header would be a packet of its own, and the load would use half of its CPU for that.
pub(crate) fn target(address: SocketAddr, root: &Path) -> String {
    let root = root.display();
    let mut text = format!("daemon off;\nmaster_process off;\nuser root;\npid {root}/nginx.pid;\n");
    text += "events { worker_connections 20000; }\nhttp {\n    access_log off;\n";
    text += "    keepalive_requests 1000000000;\n    keepalive_timeout 1h;\n    open_file_cache max=10;\n    sendfile off;\n";
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Writing to a string cannot fail.
        writeln!(text, "    {kind}_temp_path {root}/{kind};").unwrap_or_default();
    }
    text + &format!("    server {{ listen {address} backlog={BACKLOG}; root {root}; }}\n}}\n")
}

fn envoy_listener((index, route): (usize, &Route)) -> Value {
    json!({
        "name": format!("route{index}"),
        "address": envoy_address(route.listen),
        "tcp_backlog_size": BACKLOG,
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": format!("route{index}"),
                "cluster": format!("route{index}"),
                "max_connect_attempts": 3,
            },
        }]}],
    })
}

fn envoy_cluster((index, route): (usize, &Route), sessions: usize) -> Value {
    let limits =
        |priority| json!({"priority": priority, "max_connections": sessions, "max_pending_requests": sessions});
    let endpoints = route.targets.iter().enumerate().map(|(priority, target)| {
        json!({
            "priority": priority,
            "lb_endpoints": [{"endpoint": {"address": envoy_address(*target)}}],
        })
    });
    let mut cluster = json!({
        "name": format!("route{index}"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits("DEFAULT"), limits("HIGH")]},
        "load_assignment": {
            "cluster_name": format!("route{index}"),
            "endpoints": endpoints.collect::<Vec<_>>(),
        },
    });
    if route.targets.len() > 1 {
        cluster["health_checks"] = json!([{
            "interval": "2s",
            "no_traffic_interval": "2s",
            "unhealthy_edge_interval": "0.5s",
            "unhealthy_interval": "0.5s",
            "timeout": "1s",
            "healthy_threshold": 2,
            "unhealthy_threshold": 3,
            "tcp_health_check": {},
        }]);
    }
    cluster
}

fn envoy_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Vec<Route> {
        let route = |listen: u16, targets: &[&str]| Route {
            listen: ([10, 0, 0, 1], listen).into(),
            targets: targets.iter().map(|target| target.parse().unwrap()).collect(),
        };
        vec![route(1, &["10.0.1.1:80"]), route(2, &["10.0.1.1:81", "10.0.1.2:81"])]
    }

    #[test]
    fn the_second_target_is_the_reserve_everywhere() {
        assert!(landbridge(&routes(), "auto", None, 9).contains("name = \"route1-tier1\"\ntier = 1"));
        assert!(haproxy(&routes(), true, 9).contains("server target1 10.0.1.2:81 check"));
        assert!(haproxy(&routes(), true, 9).trim_end().ends_with("backup"));
        assert!(nginx(&routes(), Path::new("m"), Path::new("f"), 9).contains("server 10.0.1.2:81 backup;"));
        let envoy: Value = serde_json::from_str(&envoy(&routes(), 9).unwrap()).unwrap();
        let endpoints = &envoy["static_resources"]["clusters"][1]["load_assignment"]["endpoints"];
        assert_eq!(endpoints[1]["priority"], 1);
    }

    #[test]
    fn only_one_haproxy_splices() {
        assert!(haproxy(&routes(), true, 9).contains("splice-auto"));
        assert!(!haproxy(&routes(), false, 9).contains("splice"));
    }
}
