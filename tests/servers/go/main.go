// Servers of Go for tests/servers.rs: encoding/json and net/http alone at /mcp, and the MCP SDK at /sdk.
//
// Says its port in one line of JSON on stdout, {"port": N}. GET /ran tells what was carried out, in order.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
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

// What servers read of arguments, by the ways that are usual: queries and forms, and JSON as a map and into fields.
func draw(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	var fields map[string]any
	_ = json.Unmarshal(body, &fields)
	var size struct{ Size string }
	var pages struct{ Pages float64 }
	var deep struct{ Deep bool }
	_ = json.Unmarshal(body, &size)
	_ = json.Unmarshal(body, &pages)
	_ = json.Unmarshal(body, &deep)
	read := func(name string) []string {
		values := append([]string{}, r.URL.Query()[name]...)
		values = append(values, r.FormValue(name))
		if given, ok := fields[name]; ok && given != nil {
			values = append(values, fmt.Sprint(given))
		}
		return values
	}
	texts, numbers, flags := []string{}, []float64{pages.Pages}, []bool{deep.Deep}
	for _, text := range append(read("size"), size.Size) {
		if text != "" {
			texts = append(texts, text)
		}
	}
	for _, text := range read("pages") {
		if number, err := strconv.Atoi(text); err == nil {
			numbers = append(numbers, float64(number))
		}
		if number, err := strconv.ParseFloat(text, 64); err == nil && !math.IsInf(number, 0) && !math.IsNaN(number) {
			numbers = append(numbers, number)
		}
	}
	for _, text := range read("deep") {
		flag, _ := strconv.ParseBool(text)
		flags = append(flags, flag)
	}
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"texts": texts, "numbers": numbers, "flags": flags})
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
	mux.HandleFunc("/draw/{what}", draw)
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
