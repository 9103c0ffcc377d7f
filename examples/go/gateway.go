package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log"
	random "math/rand/v2"
	"net/http"
	"os"
	"time"
)

type object = map[string]any

var gateway = cmp.Or(os.Getenv("GATEWAY_URL"), "http://127.0.0.1:8080")
var worker = cmp.Or(os.Getenv("WORKER_ID"), "go-"+rand.Text()[:8])

// call repeats a request until it is answered, or ctx is done (status 0). That is safe: reports carry their lease
// token, polls a poll_id. The reply's directive stands in the header of a poll, in the body of a heartbeat.
func call(ctx context.Context, method, path string, body object) (status int, reply object) {
	content, _ := json.Marshal(body)
	for backoff := 0.1; ctx.Err() == nil; backoff = min(backoff*2, 10) {
		status, reply, err := send(ctx, method, path, content)
		if ctx.Err() == nil && (err != nil || status >= 400) {
			log.Println(method, path, status, reply["detail"], err)
		}
		if err == nil && status < 500 && status != 429 {
			return status, reply
		}
		sleep(ctx, backoff*(0.5+random.Float64()/2))
	}
	return 0, nil
}

func send(ctx context.Context, method, path string, content []byte) (int, object, error) {
	ctx, cancel := context.WithTimeout(ctx, 35*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, gateway+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if token := os.Getenv("GATEWAY_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	reply := object{"directive": response.Header.Get("X-Directive")}
	if err = json.NewDecoder(response.Body).Decode(&reply); err == io.EOF {
		err = nil // a 204 has no body
	}
	return response.StatusCode, reply, err
}

// signOff gives back what is in hand, too.
func signOff() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	send(ctx, "DELETE", "/workers/"+worker, nil)
}

// sleep ends early when ctx is done.
func sleep(ctx context.Context, seconds float64) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	}
}
