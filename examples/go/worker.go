// A worker without an SDK: Go's standard library alone (HTTP: gateway.go). Payload: {"path": "a file", "seconds": 0}.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
)

var errPayload = errors.New(`the payload must be {"path": "a file"}`)

// fileProcess is the work. Whatever takes long ends early when ctx is done.
func fileProcess(ctx context.Context, payload object) (object, error) {
	seconds, _ := payload["seconds"].(float64)
	sleep(ctx, seconds)
	path, ok := payload["path"].(string)
	if !ok {
		return nil, errPayload
	}
	data, err := os.ReadFile(path)
	words := bytes.FieldsFunc(data, func(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' })
	return object{"bytes": len(data), "lines": bytes.Count(data, []byte("\n")), "words": len(words),
		"sha256": fmt.Sprintf("%x", sha256.Sum256(data))}, err
}

// handle works on a task while a second goroutine keeps its lease.
func handle(ctx context.Context, task object) {
	ctx, letGo := context.WithCancel(ctx)
	defer letGo()
	path, lease := "/tasks/"+task["id"].(string), object{"lease_token": task["lease_token"]}
	go func() {
		for ctx.Err() == nil {
			sleep(ctx, task["heartbeat_seconds"].(float64))
			status, beat := call(ctx, "POST", path+"/heartbeat", lease)
			if beat["cancel_requested"] == true || beat["directive"] == "stop" {
				call(ctx, "POST", path+"/release", lease)
				letGo()
			} else if status >= 400 {
				letGo() // the lease is lost: another may have the task by now
			}
		}
	}()
	payload, _ := task["payload"].(object)
	result, err := fileProcess(ctx, payload)
	if ctx.Err() != nil {
		return // it is no longer ours: report nothing
	}
	verb, message, report := "complete", "", object{"lease_token": task["lease_token"], "result": result}
	if err != nil {
		retryable := err != errPayload && !errors.Is(err, os.ErrNotExist)
		verb, message, report = "fail", err.Error(), object{"lease_token": task["lease_token"], "retryable": retryable}
		report["error"] = object{"type": fmt.Sprintf("%T", err), "message": message}
	}
	status, _ := call(ctx, "POST", path+"/"+verb, report)
	log.Printf("%s: %s %s: %d %s", worker, verb, task["id"], status, message)
}

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	log.Printf("%s polls %s for file_process", worker, gateway)
	for directive := any("run"); directive == "run"; {
		poll := object{"worker_id": worker, "task_type": "file_process", "wait": 25, "poll_id": rand.Text()}
		_, reply := call(ctx, "POST", "/poll", poll)
		directive = reply["directive"] // none, and so the end, when ctx is done
		tasks, _ := reply["tasks"].([]any)
		for _, task := range tasks {
			handle(ctx, task.(object))
		}
	}
	signOff()
}
