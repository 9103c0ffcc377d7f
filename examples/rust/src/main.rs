//! A worker without an SDK: the work stands in file_process.rs, HTTP in gateway.rs.

mod file_process;
mod gateway;

use gateway::{insist, random, report, sign_off, URL, WORKER};
use serde_json::{json, Value};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError::Timeout};
use std::sync::Arc;
use std::time::Duration;
use std::{io, process, thread};

static STOPPING: AtomicBool = AtomicBool::new(false);

/// Works on a task in another thread while this one keeps the lease.
fn handle(task: Value) {
    let id = task["id"].as_str().unwrap_or_default().to_owned();
    let token = task["lease_token"].clone();
    let beat = Duration::from_secs_f64(task["heartbeat_seconds"].as_f64().unwrap_or(10.0));
    let let_go = Arc::new(AtomicBool::new(false));
    let (busy, finished) = mpsc::channel::<()>();
    let watched = let_go.clone();
    let work = thread::spawn(move || {
        let _busy = busy; // dropped at the end, also when the work panics
        file_process::run(&task["payload"], &watched)
    });
    while finished.recv_timeout(beat) == Err(Timeout) {
        let (status, reply) = insist(&format!("/tasks/{id}/heartbeat"), &json!({"lease_token": token}));
        let give_back = reply["cancel_requested"] == true || reply["directive"] == "stop";
        if give_back {
            insist(&format!("/tasks/{id}/release"), &json!({"lease_token": token}));
        }
        if give_back || status >= 400 {
            let_go.store(true, Relaxed); // lost: another may have the task by now, so report nothing
            return work.thread().unpark();
        }
    }
    let outcome = match work.join() {
        Ok(Ok(result)) => json!({"lease_token": token, "result": result}),
        Ok(Err(error)) => json!({
            "lease_token": token,
            "error": {"type": error.kind().to_string(), "message": error.to_string()},
            "retryable": !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound),
        }),
        Err(_) => json!({"lease_token": token, "error": "the work panicked"}),
    };
    report(&id, &outcome);
}

fn main() -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::spawn(move || {
        signals.forever().next();
        STOPPING.store(true, Relaxed);
        sign_off();
        process::exit(0);
    });
    eprintln!("{} polls {} for file_process", *WORKER, *URL);
    let mut directive = json!("run");
    while directive == "run" && !STOPPING.load(Relaxed) {
        let poll_id = random().to_string();
        let poll = json!({"worker_id": *WORKER, "task_type": "file_process", "wait": 25, "poll_id": poll_id});
        let (_, mut reply) = insist("/poll", &poll);
        directive = reply["directive"].take();
        for task in reply["tasks"].as_array_mut().into_iter().flatten() {
            handle(task.take());
        }
    }
    sign_off();
    Ok(())
}
