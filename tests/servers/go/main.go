// Servers of Go for tests/servers.rs: encoding/json and net/http alone at /mcp, and the MCP SDK at /sdk.
//
// Says its port in one line of JSON on stdout, {"port": N}. GET /ran tells what was carried out, in order.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

var (
	lock sync.Mutex
	ran  = []string{}
)

func run(what string) {
	lock.Lock()
	defer lock.Unlock()
	ran = append(ran, strings.TrimSpace(what))
}

type message struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  struct {
		Name      string `json:"name"`
		URI       string `json:"uri"`
		Arguments struct {
			Depth string `json:"depth"`
		} `json:"arguments"`
		Task *struct{} `json:"task"`
		Ref  struct {
			Name string `json:"name"`
			URI  string `json:"uri"`
		} `json:"ref"`
		Notifications struct {
			Resources []string `json:"resourceSubscriptions"`
		} `json:"notifications"`
	} `json:"params"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	var read message
	if err := json.NewDecoder(r.Body).Decode(&read); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	params := read.Params
	switch read.Method {
	case "tools/call":
		run(params.Name + " " + params.Arguments.Depth)
	case "resources/read":
		run("read " + strings.TrimPrefix(params.URI, "docs://"))
	case "completion/complete":
		run("read " + strings.TrimPrefix(params.Ref.URI, "docs://"))
	case "subscriptions/listen":
		for _, uri := range params.Notifications.Resources {
			run("read " + strings.TrimPrefix(uri, "docs://"))
		}
	}
	w.Header().Set("content-type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{}}`, read.ID)
}

type search struct {
	Query string `json:"query,omitempty"`
	Depth string `json:"depth,omitempty"`
}

func studio() *mcp.Server {
	server := mcp.NewServer(&mcp.Implementation{Name: "studio", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, func(_ context.Context, _ *mcp.CallToolRequest, in search) (*mcp.CallToolResult, any, error) {
		run("search " + in.Depth)
		return nil, nil, nil
	})
	mcp.AddTool(server, &mcp.Tool{Name: "image_generate"}, func(_ context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		run("image_generate")
		return nil, nil, nil
	})
	read := func(_ context.Context, request *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		run("read " + strings.TrimPrefix(request.Params.URI, "docs://"))
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: request.Params.URI, Text: "text"}}}, nil
	}
	server.AddResourceTemplate(&mcp.ResourceTemplate{Name: "docs", URITemplate: "docs://{area}/{name}"}, read)
	server.AddResource(&mcp.Resource{Name: "private", URI: "docs://private/one"}, read)
	return server
}

func main() {
	sdk := studio()
	options := mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true}
	mux := http.NewServeMux()
	mux.Handle("/sdk", mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return sdk }, &options))
	mux.HandleFunc("POST /mcp", answer)
	mux.HandleFunc("POST /api/projects/{project}/trigger", func(w http.ResponseWriter, r *http.Request) {
		run("trigger " + r.PathValue("project"))
		fmt.Fprint(w, "{}")
	})
	mux.HandleFunc("GET /ran", func(w http.ResponseWriter, _ *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		_ = json.NewEncoder(w).Encode(ran)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("{\"port\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, mux))
}
