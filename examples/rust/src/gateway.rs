//! The HTTP side of a worker.

use serde_json::{json, Value};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;
use std::{env, thread};
use ureq::{Agent, RequestBuilder};

pub static WORKER: LazyLock<String> = LazyLock::new(|| env::var("WORKER_ID").unwrap_or(format!("rust-{:x}", random())));
pub static URL: LazyLock<String> = LazyLock::new(|| env::var("GATEWAY_URL").unwrap_or("http://127.0.0.1:8080".into()));
static TOKEN: LazyLock<String> = LazyLock::new(|| env::var("GATEWAY_TOKEN").unwrap_or_default());
static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    let config = Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(35))).build().into()
});

/// Posts until it is answered, which is safe: reports carry their lease token, polls a poll_id.
/// The directive in the header of a poll's reply joins the members of its body.
pub fn insist(path: &str, body: &Value) -> (u16, Value) {
    let mut backoff = Duration::from_millis(100);
    loop {
        match post(path, body) {
            Ok((status, reply)) if status < 400 => return (status, reply),
            Ok((status, reply)) => {
                eprintln!("{path}: {status} {}", reply["detail"]);
                if status < 500 && status != 429 {
                    return (status, reply);
                }
            }
            Err(error) => eprintln!("{path}: {error}"),
        }
        thread::sleep(backoff.mul_f64(0.5 + random() as f64 / u64::MAX as f64 / 2.0));
        backoff = Duration::from_secs(10).min(backoff * 2);
    }
}

/// Completes a task, or fails it where the report has an error, and says so.
pub fn report(id: &str, report: &Value) {
    let error = report.get("error").map(Value::to_string);
    let verb = error.as_ref().map_or("complete", |_| "fail");
    let (status, _) = insist(&format!("/tasks/{id}/{verb}"), report);
    eprintln!("{}: {verb} {id}: {status} {}", *WORKER, error.unwrap_or_default());
}

fn post(path: &str, body: &Value) -> Result<(u16, Value), ureq::Error> {
    let request = AGENT
        .post(format!("{}{path}", *URL))
        .header("Content-Type", "application/json");
    let mut reply = authorized(request).send(body.to_string())?;
    let text = reply.body_mut().read_to_string()?;
    let mut members: Value = serde_json::from_str(&text).unwrap_or_default();
    if let Some(directive) = reply.headers().get("X-Directive") {
        members["directive"] = directive.to_str().unwrap_or_default().into();
    }
    Ok((reply.status().as_u16(), members))
}

/// Tells the gateway that a worker is gone, which gives back what it has in hand, too.
pub fn sign_off() {
    let request = authorized(AGENT.delete(format!("{}/workers/{}", *URL, *WORKER))).config();
    if let Err(error) = request.timeout_global(Some(Duration::from_secs(3))).build().call() {
        eprintln!("could not sign off: {error}");
    }
}

fn authorized<B>(request: RequestBuilder<B>) -> RequestBuilder<B> {
    if TOKEN.is_empty() {
        return request;
    }
    request.header("Authorization", format!("Bearer {}", *TOKEN))
}

/// Any number: the library has no other source of them.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
