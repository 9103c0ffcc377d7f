<?php
// The HTTP side of a worker, and how it hears that it is to stop.
declare(strict_types=1);

define('GATEWAY', getenv('GATEWAY_URL') ?: 'http://127.0.0.1:8080');
define('AUTHORIZATION', getenv('GATEWAY_TOKEN') ? 'Authorization: Bearer ' . getenv('GATEWAY_TOKEN') . "\r\n" : '');
define('WORKER', getenv('WORKER_ID') ?: 'php-' . bin2hex(random_bytes(4)));
const STOPS = [SIGTERM, SIGINT];

class Stopped extends Exception
{
}

/** Sleeps, at most until a signal comes, and returns that. Stops are blocked but here, so that they break nothing. */
function pause(float $seconds, array $signals = STOPS): int|false
{
    $signal = pcntl_sigtimedwait($signals, $info, (int) $seconds, max(1, (int) (fmod($seconds, 1) * 1e9)));
    return in_array($signal, STOPS, true) ? throw new Stopped() : $signal;
}

/** Sends a request. Returns status, directive and reply; status 0: no gateway had an answer. */
function send(string $method, string $path, array $body): array
{
    $content = json_encode((object) $body);
    if (!$socket = @stream_socket_client(preg_replace('/^http/', 'tcp', GATEWAY), $code, $text, 5)) {
        return [0, null, ['detail' => $text]];
    }
    $length = strlen($content);
    $head = "$method $path HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: $length";
    fwrite($socket, "$head\r\n" . AUTHORIZATION . "\r\n$content");
    stream_set_blocking($socket, false);
    for ($text = '', $until = time() + 35; !feof($socket) && time() < $until; $text .= fread($socket, 65536)) {
        $waiting = [$socket];
        stream_select($waiting, $none, $none, 0, 200_000);
        pause(0);
    }
    [$head, $content] = explode("\r\n\r\n", $text, 2) + ['', ''];
    $reply = json_decode($content, true) ?? [];
    $status = $reply || str_contains($head, ' 204 ') ? (int) substr($head, 9, 3) : 0;
    return [$status, preg_match('/^x-directive: *(\w+)/im', $head, $found) ? $found[1] : null, $reply];
}

/** Posts until it is answered, which is safe: reports carry their lease token, polls a poll_id. */
function insist(string $path, array $body): array
{
    for ($backoff = 0.1;; $backoff = min($backoff * 2, 10)) {
        [$status, $directive, $reply] = send('POST', $path, $body);
        if ($status < 200 || $status >= 300) {
            fwrite(STDERR, "$path $status " . ($reply['detail'] ?? '') . "\n");
        }
        if ($status > 0 && $status < 500 && $status !== 429) {
            return [$status, $directive, $reply];
        }
        pause($backoff * random_int(50, 100) / 100);
    }
}

/** Reports on a task, and says so. */
function report(string $path, string $verb, array $body): void
{
    [$status] = insist("$path/$verb", $body);
    $message = $body['error']['message'] ?? '';
    fwrite(STDERR, WORKER . ": $verb " . basename($path) . ": $status $message\n");
}
