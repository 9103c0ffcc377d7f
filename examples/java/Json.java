import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.MatchResult;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** As much JSON as a worker needs: Java has none. The gateway's is valid, so commas and colons need no look. */
final class Json {
    private static final Pattern TOKEN = Pattern.compile("[\\[\\]{}]|\"(?:[^\"\\\\]|\\\\.)*+\"|[^\\s\\[\\]{},:\"]+");
    private static final Pattern ESCAPED = Pattern.compile("\\\\(?:u(....)|.)");
    private static final Pattern TO_ESCAPE = Pattern.compile("[\"\\\\\\x00-\\x1f]");

    static Object read(String text) {
        Matcher tokens = TOKEN.matcher(text);
        tokens.find();
        return value(tokens);
    }

    static String write(Object value) {
        if (value instanceof Map<?, ?> map) {
            return map.entrySet().stream()
                    .map(entry -> write(entry.getKey()) + ":" + write(entry.getValue()))
                    .collect(Collectors.joining(",", "{", "}"));
        }
        return value instanceof String text ? '"' + TO_ESCAPE.matcher(text).replaceAll(Json::escape) + '"' : "" + value;
    }

    @SuppressWarnings("unchecked") // the names in an object are strings
    static Map<String, Object> object(Object value) {
        return (Map<String, Object>) (value instanceof Map ? value : Map.of());
    }

    static List<?> array(Object value) {
        return value instanceof List<?> list ? list : List.of();
    }

    private static Object value(Matcher tokens) {
        String token = tokens.group();
        switch (token.charAt(0)) {
            case '{':
                Map<String, Object> members = new HashMap<>();
                while (tokens.find() && !tokens.group().equals("}")) {
                    String name = unquote(tokens.group());
                    tokens.find();
                    members.put(name, value(tokens));
                }
                return members;
            case '[':
                List<Object> items = new ArrayList<>();
                while (tokens.find() && !tokens.group().equals("]")) {
                    items.add(value(tokens));
                }
                return items;
            case '"':
                return unquote(token);
            default:
                return token.equals("null") ? null : token.matches("true|false") ? token.equals("true") : Double.valueOf(token);
        }
    }

    private static String unquote(String token) {
        return ESCAPED.matcher(token.substring(1, token.length() - 1)).replaceAll(Json::unescape);
    }

    private static String unescape(MatchResult found) {
        String hex = found.group(1);
        String text = hex != null ? Character.toString(Integer.parseInt(hex, 16)) : found.group().replace("\\/", "/").translateEscapes();
        return Matcher.quoteReplacement(text);
    }

    private static String escape(MatchResult found) {
        return String.format("\\\\u%04x", (int) found.group().charAt(0));
    }
}
