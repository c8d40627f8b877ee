//! Real HTTP clients and servers through the proxy.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use landbridge_tests::targets::{Nginx, Sample};
use landbridge_tests::{Config, Daemon, Group, Host, Net, PATIENCE, Process, Source, Tool};
use tempfile::NamedTempFile;

/// Two sample targets of equal weight.
fn samples(host: &Host, options: &[&str]) -> Result<(Vec<Sample>, Config)> {
    let sample = |(port, name)| Sample::start(host, port, name, options);
    let samples = [(9000, "gpu-1"), (9001, "gpu-2")].map(sample).into_iter().collect::<Result<Vec<_>>>()?;
    let group = samples.iter().fold(Group::new("onprem"), |group, sample| group.target(sample.address()));
    Ok((samples, Config::new([group])))
}

/// Runs a Python script on `host` with the address of the proxy as its argument; a failed assertion is an error.
fn python(host: &Host, script: &str, daemon: &Daemon) -> Result<String> {
    let mut python = Tool::Python.on(host)?;
    // A proxy for HTTP in the environment is not the one under test.
    for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        python.env_remove(variable);
    }
    python.args(["-c", script, &daemon.v4().to_string()]);
    Process::start("python", &mut python)?.succeed(PATIENCE * 2)
}

#[test]
fn curl_receives_tokens_as_they_are_made() -> Result<()> {
    let net = Net::new(1)?;
    let sample = Sample::start(&net.targets[0], 9000, "gpu-1", &["--token-interval", "300ms", "--tokens", "8"])?;
    let mut daemon = Daemon::start(&net.proxy, &Config::single(sample.address()))?;
    let mut curl = Tool::Curl.on(&net.client)?;
    curl.args(["--silent", "--show-error", "--fail", "--no-buffer"])
        .args(["--json", r#"{"messages": [{"role": "user", "content": "hi"}], "stream": true}"#])
        .arg(format!("http://{}/v1/chat/completions", daemon.v4()));
    let mut curl = Process::start("curl", &mut curl)?;
    for token in ["gpu-1:", " token-1", " token-4"] {
        curl.wait_ready(|curl| {
            let so_far = curl.stdout();
            ensure!(so_far.contains(&format!("{{\"content\":\"{token}\"}}")), "{token} has not come: {so_far}");
            ensure!(!so_far.contains("token-7"), "{token} came with the last one");
            Ok(())
        })?;
    }
    ensure!(curl.succeed(PATIENCE)?.ends_with("data: [DONE]\n\n"));
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn the_openai_client_streams_and_completes() -> Result<()> {
    let net = Net::new(1)?;
    let (samples, config) = samples(&net.targets[0], &["--tokens", "5", "--token-interval", "100ms"])?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let answer = python(
        &net.client,
        r#"
import sys, time
from openai import OpenAI

client = OpenAI(base_url=f"http://{sys.argv[1]}/v1", api_key="none", max_retries=0, timeout=10)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "one two three"}]

whole = client.chat.completions.create(model=model, messages=messages)
assert whole.object == "chat.completion" and whole.model == model, whole
assert whole.choices[0].finish_reason == "stop", whole
assert whole.usage.prompt_tokens == 3 and whole.usage.total_tokens == 8, whole

arrivals, text, usage = [], "", None
stream = client.chat.completions.create(
    model=model, messages=messages, stream=True, stream_options={"include_usage": True})
for chunk in stream:
    assert chunk.object == "chat.completion.chunk", chunk
    usage = chunk.usage or usage
    for choice in chunk.choices:
        if choice.delta.content:
            arrivals.append(time.monotonic())
            text += choice.delta.content
assert text == whole.choices[0].message.content, (text, whole)
assert usage.completion_tokens == 5, usage
assert arrivals[-1] - arrivals[0] > 0.3, arrivals
print(text)
"#,
        &daemon,
    )?;
    // The client keeps its connection, and so its target, for all three requests.
    ensure!(answer == "gpu-1: token-1 token-2 token-3 token-4\n", "{answer}");
    assert_eq!((samples[0].served(), samples[1].served()), (3, 0));
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn httpx_multiplexes_over_http2() -> Result<()> {
    let net = Net::new(1)?;
    let (_samples, config) = samples(&net.targets[0], &["--tokens", "5"])?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let answer = python(
        &net.client,
        r#"
import asyncio, sys
import httpx

async def main():
    async with httpx.AsyncClient(http1=False, http2=True, base_url=f"http://{sys.argv[1]}", timeout=10) as client:
        async def ask(number):
            request = {"messages": [{"role": "user", "content": "x" * number}], "stream": number % 2 == 0}
            answer = await client.post("/v1/chat/completions", json=request)
            assert answer.status_code == 200 and answer.http_version == "HTTP/2", answer
            assert "token-4" in answer.text and ("[DONE]" in answer.text) == request["stream"], answer.text
            return answer.headers["x-served-by"]
        first = await ask(1)
        # Requests of a megabyte and of a byte, all at once.
        others = await asyncio.gather(*(ask(number ** 4 + 1) for number in range(32)))
        assert set(others) == {first}, others
        print(len(others))

asyncio.run(main())
"#,
        &daemon,
    )?;
    ensure!(answer == "32\n", "{answer}");
    daemon.wait_ended(1, "client_closed")?;
    daemon.stop().map(drop)
}

#[test]
fn h2load_has_no_failures() -> Result<()> {
    let net = Net::new(1)?;
    let (samples, config) = samples(&net.targets[0], &[])?;
    let mut daemon = Daemon::start(&net.proxy, &config)?;
    let mut h2load = Tool::H2load.on(&net.client)?;
    h2load.args(["-n", "4000", "-c", "20", "-m", "10", &format!("http://{}/health", daemon.v4())]);
    let report = Process::start("h2load", &mut h2load)?.succeed(PATIENCE * 2)?;
    ensure!(report.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    // Each connection asks the same number of times, and the connections alternate.
    assert_eq!((samples[0].served(), samples[1].served()), (2000, 2000));
    daemon.wait_metric("landbridge_sessions_total", &[], 20.0)?;
    daemon.stop().map(drop)
}

#[test]
fn nginx_under_wrk_has_no_errors() -> Result<()> {
    let net = Net::new(1)?;
    let nginx = Nginx::start(&net.targets[0], 80)?;
    for datapath in ["copy", "splice", "auto"] {
        let config = Config::single(nginx.address()).listener(&format!("datapath = {datapath:?}"));
        let mut daemon = Daemon::start(&net.proxy, &config)?;
        for (path, connections) in [("small", "50"), ("large", "8")] {
            let mut wrk = Tool::Wrk.on(&net.client)?;
            wrk.args(["-t", "1", "-d", "1s", "-c", connections, &format!("http://{}/{path}", daemon.v4())]);
            let report = Process::start("wrk", &mut wrk)?.succeed(PATIENCE)?;
            let wrong = ["Socket errors", "Non-2xx"].iter().any(|complaint| report.contains(complaint));
            ensure!(!wrong && !report.contains(" 0 requests in"), "{datapath}: {report}");
        }
        let refused = daemon.metrics()?.value("landbridge_target_connect_failures_total", &[]);
        assert_eq!(refused, 0.0);
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn files_from_nginx_are_whole() -> Result<()> {
    let net = Net::new(1)?;
    let nginx = Nginx::start(&net.targets[0], 80)?;
    let mut expected = vec![0; Nginx::LARGE];
    Source::new(Nginx::SEED).fill(&mut expected);
    let mut daemon = Daemon::start(&net.proxy, &Config::single(nginx.address()))?;
    let file = NamedTempFile::new()?;
    // Slow enough to fill every buffer on the way, fast enough for a test.
    for rate in [&[][..], &["--limit-rate", "2M"]] {
        let mut curl = Tool::Curl.on(&net.client)?;
        curl.args(["--silent", "--show-error", "--fail", "--output"]).arg(file.path()).args(rate);
        curl.arg(format!("http://{}/large", daemon.v4()));
        Process::start("curl", &mut curl)?.succeed(PATIENCE + Duration::from_secs(2))?;
        ensure!(fs::read(file.path())? == expected, "the file is not what nginx has");
    }
    daemon.wait_ended(2, "client_closed")?;
    daemon.stop().map(drop)
}
