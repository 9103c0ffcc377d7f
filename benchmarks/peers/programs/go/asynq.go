package main

import (
	"context"
	"errors"
	"os"

	"github.com/hibiken/asynq"
)

// asynq: `Client.Enqueue`, `NewServer` and a mux, as in its README. It has no way to enqueue many at once.
type asynqCaller struct{ client *asynq.Client }

var asynqClient *asynq.Client

// openAsynq returns the one client again and again: it is made to be shared, and pools its connections.
func openAsynq() (caller, error) {
	if asynqClient == nil {
		asynqClient = asynq.NewClient(asynqRedis())
	}
	return asynqCaller{asynqClient}, nil
}

func (c asynqCaller) enqueue(payload []byte) error {
	_, err := c.client.Enqueue(asynq.NewTask("empty", payload))
	return err
}

func (c asynqCaller) enqueueMany([][]byte) error {
	return errors.New("asynq enqueues one task at a time")
}

func workAsynq(concurrency int, handle func(payload []byte)) error {
	mux := asynq.NewServeMux()
	mux.HandleFunc("empty", func(_ context.Context, task *asynq.Task) error {
		handle(task.Payload())
		return nil
	})
	return asynq.NewServer(asynqRedis(), asynq.Config{Concurrency: concurrency, LogLevel: asynq.WarnLevel}).Run(mux)
}

func asynqRedis() asynq.RedisClientOpt {
	return asynq.RedisClientOpt{Network: "unix", Addr: os.Getenv("PEER_SOCKET")}
}
