// Go's net/http on both sides; a Scanner for the lines, one flush when nothing more is buffered.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
)

type event struct {
	Response string
	Choices  []struct{ Delta struct{ Content string } }
}

func main() {
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		MaxIdleConnsPerHost: 4096,
		DisableCompression:  true,
	}}
	url := os.Getenv("UPSTREAM")
	http.HandleFunc("/api/chatbot", func(w http.ResponseWriter, r *http.Request) {
		var messages json.RawMessage
		if json.NewDecoder(r.Body).Decode(&messages) != nil {
			w.WriteHeader(400)
			return
		}
		body, _ := json.Marshal(map[string]any{"messages": messages, "stream": true})
		req, _ := http.NewRequestWithContext(r.Context(), "POST", url, bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		defer res.Body.Close()
		w.Header().Set("Content-Type", "text/event-stream")
		reader := bufio.NewReader(res.Body)
		flusher := w.(http.Flusher)
		for {
			line, err := reader.ReadSlice('\n')
			if err != nil {
				return
			}
			if bytes.HasPrefix(line, []byte("data: ")) && !bytes.HasPrefix(line, []byte("data: [DONE]")) {
				var said event
				if json.Unmarshal(line[6:], &said) == nil {
					if len(said.Choices) > 0 {
						said.Response = said.Choices[0].Delta.Content
					}
					w.Write([]byte(said.Response))
				}
			}
			if reader.Buffered() == 0 {
				flusher.Flush()
			}
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	http.Serve(listener, nil)
}
