<?php
// A worker without an SDK: PHP 8.1 for the command line and nothing else. Payload: {"path": "a file", "seconds": 0}.
declare(strict_types=1);

require __DIR__ . '/gateway.php';

/** The work. It runs in a process of its own, which is killed when the task is no longer ours. */
function file_process(array $payload): array
{
    usleep((int) (1e6 * ($payload['seconds'] ?? 0)));
    file_exists($payload['path']) || throw new ValueError("no file {$payload['path']}");
    $data = is_file($payload['path']) ? file_get_contents($payload['path']) : false;
    $data !== false || throw new RuntimeException("cannot read {$payload['path']}");
    return [
        'bytes' => strlen($data),
        'lines' => substr_count($data, "\n"),
        'words' => preg_match_all('/[^ \t\n\x0b\f\r]+/', $data),
        'sha256' => hash('sha256', $data),
    ];
}

/** Does the work and reports on it: the child's part. */
function attempt(string $path, array $lease, mixed $payload): void
{
    try {
        report($path, 'complete', $lease + ['result' => file_process($payload)]);
    } catch (RuntimeException | Error $error) {
        $parts = ['type' => $error::class, 'message' => $error->getMessage()];
        report($path, 'fail', $lease + ['error' => $parts, 'retryable' => $error instanceof RuntimeException]);
    }
}

/** Keeps the lease of a task while a child works on it. */
function handle(array $task): void
{
    [$path, $lease] = ["/tasks/{$task['id']}", ['lease_token' => $task['lease_token']]];
    if (($child = pcntl_fork()) === 0) {
        attempt($path, $lease, $task['payload']);
        exit;
    }
    try {
        while (pcntl_waitpid($child, $status, WNOHANG) === 0) {
            if (pause($task['heartbeat_seconds'], [SIGCHLD, ...STOPS]) === SIGCHLD) {
                continue;
            }
            [$status, , $beat] = insist("$path/heartbeat", $lease);
            if ($status >= 400) {
                return; // lost: another may have the task by now, so report nothing
            }
            if ($beat['cancel_requested'] || $beat['directive'] === 'stop') {
                insist("$path/release", $lease);
                return;
            }
        }
    } finally {
        if (pcntl_waitpid($child, $status, WNOHANG) === 0) {
            posix_kill($child, SIGKILL);
            pcntl_waitpid($child, $status);
        }
    }
}

pcntl_sigprocmask(SIG_BLOCK, [SIGCHLD, ...STOPS]);
fwrite(STDERR, WORKER . ' polls ' . GATEWAY . " for file_process\n");
$directive = 'run';
try {
    while ($directive === 'run') {
        $poll = ['worker_id' => WORKER, 'task_type' => 'file_process', 'wait' => 25];
        [, $directive, $reply] = insist('/poll', $poll + ['poll_id' => bin2hex(random_bytes(8))]);
        array_map('handle', $reply['tasks'] ?? []);
    }
} catch (Stopped) {
}
send('DELETE', '/workers/' . WORKER, []); // gives back what is in hand, too
exit($directive ? 0 : 1);
