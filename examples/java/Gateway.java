import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;

/** The HTTP side of a worker. */
final class Gateway {
    static final String WORKER = System.getenv().getOrDefault("WORKER_ID", "java-" + UUID.randomUUID());
    static final String URL = System.getenv().getOrDefault("GATEWAY_URL", "http://127.0.0.1:8080");
    private static final String TOKEN = System.getenv().getOrDefault("GATEWAY_TOKEN", "");
    private static final HttpClient HTTP = HttpClient.newHttpClient();

    /** body: empty where the reply has none. */
    record Reply(int status, Map<String, Object> body, String directive) {
        boolean lostTheLease() {
            return status == 404 || status == 409;
        }

        boolean wantsItBack() {
            return Boolean.TRUE.equals(body.get("cancel_requested")) || "stop".equals(body.get("directive"));
        }
    }

    /** Sends one request. Status 0: no gateway had an answer. */
    static Reply send(String method, String path, Map<String, ?> body, int seconds) {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(URL + path))
                .version(HttpClient.Version.HTTP_1_1)
                .timeout(Duration.ofSeconds(seconds))
                .header("Content-Type", "application/json")
                .method(method, BodyPublishers.ofString(Json.write(body)));
        if (!TOKEN.isEmpty()) {
            request.header("Authorization", "Bearer " + TOKEN);
        }
        try {
            HttpResponse<String> reply = HTTP.send(request.build(), BodyHandlers.ofString());
            if (reply.statusCode() >= 400) {
                System.err.println(path + ": " + reply.statusCode() + " " + reply.body());
            }
            Map<String, Object> members = reply.statusCode() == 200 ? Json.object(Json.read(reply.body())) : Map.of();
            return new Reply(reply.statusCode(), members, reply.headers().firstValue("X-Directive").orElse("none"));
        } catch (IOException | InterruptedException error) {
            System.err.println(path + ": " + error);
            return new Reply(0, Map.of(), "none");
        }
    }

    /** Asks for a task until there is an answer. */
    static Reply poll(String type) throws InterruptedException {
        String pollId = UUID.randomUUID().toString();
        return insist("/poll", Map.of("worker_id", WORKER, "task_type", type, "wait", 25, "poll_id", pollId));
    }

    /** Completes a task, or fails it where the report has an error, and says so. */
    static void report(String path, Map<String, Object> report) throws InterruptedException {
        String verb = report.containsKey("error") ? "fail" : "complete";
        int status = insist(path + "/" + verb, report).status();
        String id = path.substring(path.lastIndexOf('/') + 1);
        System.err.println(WORKER + ": " + verb + " " + id + ": " + status + " " + report.getOrDefault("error", ""));
    }

    /** Posts until it is answered. That is safe: reports carry their lease token, polls a poll_id. */
    static Reply insist(String path, Map<String, ?> body) throws InterruptedException {
        for (double backoffSeconds = 0.1; ; backoffSeconds = Math.min(2 * backoffSeconds, 10)) {
            Reply reply = send("POST", path, body, 35);
            if (reply.status > 0 && reply.status < 500 && reply.status != 429) {
                return reply;
            }
            Thread.sleep((long) (backoffSeconds * (500 + 500 * Math.random())));
        }
    }
}
