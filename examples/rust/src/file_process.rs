//! The work: counts and hashes a file. Payload: {"path": "a file", "seconds": 0}.

use serde_json::{json, Value};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{fs, io, io::ErrorKind::InvalidInput, thread};

/// Whatever takes long ends early when `let_go` is set.
pub fn run(payload: &Value, let_go: &AtomicBool) -> io::Result<Value> {
    let end = Instant::now() + Duration::from_secs_f64(payload["seconds"].as_f64().unwrap_or(0.0));
    while Instant::now() < end && !let_go.load(Relaxed) {
        thread::park_timeout(end - Instant::now());
    }
    let path = payload["path"].as_str().ok_or(InvalidInput)?;
    let data = fs::read(path)?;
    let words = data.split(|byte| matches!(byte, b' ' | b'\t'..=b'\r'));
    Ok(json!({
        "bytes": data.len(),
        "lines": data.iter().filter(|byte| **byte == b'\n').count(),
        "words": words.filter(|word| !word.is_empty()).count(),
        "sha256": Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    }))
}
