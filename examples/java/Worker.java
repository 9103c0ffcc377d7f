import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.StringTokenizer;

/** A worker without an SDK: Java 17 and nothing else. Payload: {"path": "a file", "seconds": 0}. */
public final class Worker {
    private static volatile boolean stopping;

    /** The work. Whatever takes long ends early when its thread is interrupted. */
    private static Map<String, ?> fileProcess(Map<String, Object> payload) throws Exception {
        Thread.sleep(payload.get("seconds") instanceof Double seconds ? (long) (seconds * 1000) : 0);
        byte[] data = Files.readAllBytes(Path.of((String) payload.get("path")));
        String text = new String(data, StandardCharsets.ISO_8859_1); // a character for each byte
        long lines = text.chars().filter(character -> character == '\n').count();
        int words = new StringTokenizer(text, " \t\n\013\f\r").countTokens();
        String sha256 = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
        return Map.of("bytes", data.length, "lines", lines, "words", words, "sha256", sha256);
    }

    private static Map<String, ?> attempt(Map<String, Object> payload) {
        try {
            return Map.of("result", fileProcess(payload));
        } catch (Exception error) {
            Map<String, ?> parts = Map.of("type", error.getClass().getName(), "message", "" + error.getMessage());
            boolean retryable = error instanceof IOException && !(error instanceof NoSuchFileException);
            return Map.of("error", parts, "retryable", retryable);
        }
    }

    /** Works on a task in another thread while this one keeps the lease. */
    private static void handle(Map<String, Object> task) throws InterruptedException {
        String path = "/tasks/" + task.get("id");
        Map<String, ?> lease = Map.of("lease_token", task.get("lease_token"));
        Map<String, Object> report = new HashMap<>(lease);
        Thread work = new Thread(() -> report.putAll(attempt(Json.object(task.get("payload")))));
        work.start();
        try {
            long beatMs = Math.round((Double) task.get("heartbeat_seconds") * 1000);
            for (work.join(beatMs); work.isAlive(); work.join(beatMs)) {
                Gateway.Reply beat = Gateway.insist(path + "/heartbeat", lease);
                if (beat.wantsItBack()) {
                    Gateway.insist(path + "/release", lease);
                }
                if (beat.wantsItBack() || beat.lostTheLease()) {
                    return; // lost: another may have the task by now, so report nothing
                }
            }
            Gateway.report(path, report);
        } finally {
            work.interrupt();
        }
    }

    public static void main(String[] arguments) throws InterruptedException {
        Runtime.getRuntime().addShutdownHook(new Thread(Worker::leave)); // on SIGTERM, SIGINT, and at the end
        System.err.println(Gateway.WORKER + " polls " + Gateway.URL + " for file_process");
        String directive = "run";
        while (directive.equals("run") && !stopping) {
            Gateway.Reply reply = Gateway.poll("file_process");
            directive = reply.directive();
            for (Object task : Json.array(reply.body().get("tasks"))) {
                handle(Json.object(task));
            }
        }
    }

    private static void leave() {
        stopping = true;
        Gateway.send("DELETE", "/workers/" + Gateway.WORKER, Map.of(), 3); // gives back what is in hand, too
        Runtime.getRuntime().halt(0); // rather than the 143 of a JVM that was sent SIGTERM
    }
}
