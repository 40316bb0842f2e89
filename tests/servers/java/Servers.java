// Servers of Java for tests/servers.rs, in Tomcat: servlets with Jackson alone at /mcp, and the MCP SDK at /sdk.
//
// Says its port in one line of JSON on stdout, {"port": N}. GET /ran tells what was carried out, in order.

import io.modelcontextprotocol.server.McpServer;
import io.modelcontextprotocol.server.McpStatelessServerFeatures.SyncResourceSpecification;
import io.modelcontextprotocol.server.McpStatelessServerFeatures.SyncResourceTemplateSpecification;
import io.modelcontextprotocol.server.transport.HttpServletStatelessServerTransport;
import io.modelcontextprotocol.spec.McpSchema;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.catalina.startup.Tomcat;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

public final class Servers {
    private static final List<String> RAN = new CopyOnWriteArrayList<>();
    private static final JsonMapper JSON = JsonMapper.builder().build();

    private interface Answer {
        Object to(HttpServletRequest request) throws IOException;
    }

    private static void run(String what) {
        RAN.add(what.strip());
    }

    private static void read(String uri) {
        run("read " + uri.replaceFirst("^docs://", ""));
    }

    private static Object answer(HttpServletRequest request) throws IOException {
        JsonNode message = JSON.readTree(request.getReader());
        JsonNode params = message.path("params");
        switch (message.path("method").asString("")) {
            case "tools/call" -> run(params.path("name").asString("") + " " + params.path("arguments").path("depth").asString(""));
            case "resources/read" -> read(params.path("uri").asString(""));
            case "completion/complete" -> read(params.path("ref").path("uri").asString(""));
            case "subscriptions/listen" -> params.path("notifications").path("resourceSubscriptions").forEach(uri -> read(uri.asString("")));
            default -> { }
        }
        return Map.of("jsonrpc", "2.0", "id", message.path("id"), "result", Map.of());
    }

    private static Object trigger(HttpServletRequest request) {
        String[] segments = String.valueOf(request.getPathInfo()).split("/");
        if (segments.length == 3 && segments[2].equals("trigger")) {
            run("trigger " + segments[1]);
        }
        return Map.of();
    }

    // What servers read of arguments, by the ways that are usual: parameters of query and form, and JSON.
    private static Object draw(HttpServletRequest request) throws IOException {
        List<String> texts = new ArrayList<>();
        List<Double> numbers = new ArrayList<>();
        List<Boolean> flags = new ArrayList<>();
        boolean isForm = String.valueOf(request.getContentType()).contains("form");
        JsonNode body = isForm ? JSON.nullNode() : json(request);
        for (String name : List.of("size", "pages", "deep")) {
            String[] given = request.getParameterValues(name);
            List<String> values = new ArrayList<>(given == null ? List.of() : List.of(given));
            JsonNode node = body.path(name);
            for (JsonNode each : node.isArray() ? node : List.of(node)) {
                if (each.isValueNode() && !each.isNull()) {
                    values.add(each.asString(""));
                }
            }
            for (String value : values) {
                switch (name) {
                    case "size" -> texts.add(value);
                    case "deep" -> flags.add(Boolean.parseBoolean(value.strip()));
                    default -> {
                        try {
                            numbers.add(Double.parseDouble(value));
                        } catch (NumberFormatException none) {
                            numbers.add(0.0);
                        }
                        try {
                            numbers.add((double) Integer.parseInt(value));
                        } catch (NumberFormatException none) {
                            numbers.add(0.0);
                        }
                    }
                }
            }
        }
        numbers.removeIf(number -> !Double.isFinite(number));
        return Map.of("texts", texts, "numbers", numbers, "flags", flags);
    }

    private static JsonNode json(HttpServletRequest request) throws IOException {
        try {
            JsonNode read = JSON.readTree(request.getInputStream());
            return read == null ? JSON.nullNode() : read;
        } catch (JacksonException none) {
            return JSON.nullNode();
        }
    }

    private static HttpServletStatelessServerTransport studio() {
        HttpServletStatelessServerTransport transport = HttpServletStatelessServerTransport.builder().messageEndpoint("/sdk").build();
        Map<String, Object> schema = Map.of("type", "object");
        McpSchema.ResourceTemplate docs = McpSchema.ResourceTemplate.builder().uriTemplate("docs://{area}/{name}").name("docs").build();
        McpSchema.Resource secret = McpSchema.Resource.builder().uri("docs://private/one").name("private").build();
        McpServer.sync(transport)
            .capabilities(McpSchema.ServerCapabilities.builder().tools(false).resources(false, false).build())
            .toolCall(McpSchema.Tool.builder("search", schema).build(), (context, call) -> {
                Object depth = call.arguments() == null ? null : call.arguments().get("depth");
                run("search " + (depth == null ? "" : depth));
                return McpSchema.CallToolResult.builder().addTextContent("found").build();
            })
            .toolCall(McpSchema.Tool.builder("image_generate", schema).build(), (context, call) -> {
                run("image_generate");
                return McpSchema.CallToolResult.builder().addTextContent("drawn").build();
            })
            .resources(new SyncResourceSpecification(secret, (context, asked) -> document(asked)))
            .resourceTemplates(new SyncResourceTemplateSpecification(docs, (context, asked) -> document(asked)))
            .build();
        return transport;
    }

    private static McpSchema.ReadResourceResult document(McpSchema.ReadResourceRequest asked) {
        read(asked.uri());
        return new McpSchema.ReadResourceResult(List.of(new McpSchema.TextResourceContents(asked.uri(), "text/plain", "text")));
    }

    private static HttpServlet servlet(Answer answer) {
        return new HttpServlet() {
            @Override
            protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
                Object said = answer.to(request);
                response.setContentType("application/json");
                response.getOutputStream().write(JSON.writeValueAsBytes(said));
            }
        };
    }

    public static void main(String[] arguments) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(arguments[0]);
        tomcat.setHostname("localhost");
        tomcat.setPort(0);
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        var context = tomcat.addContext("", arguments[0]);
        Map.of("/mcp", servlet(Servers::answer), "/sdk", studio(), "/api/projects/*", servlet(Servers::trigger), "/draw/*",
            servlet(Servers::draw), "/ran", servlet(request -> RAN))
            .forEach((path, servlet) -> {
                Tomcat.addServlet(context, path, servlet).setAsyncSupported(true);
                context.addServletMappingDecoded(path, path);
            });
        tomcat.start();
        System.out.println("{\"port\": " + tomcat.getConnector().getLocalPort() + "}");
        tomcat.getServer().await();
    }
}
