package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	ocypodJSON = "Content-Type: application/json\r\n"
	// Its workers ask again and again, since a request does not wait for a job: how often is each user's choice.
	ocypodPause = 100 * time.Millisecond
)

// ocypod, by its docs/api.md: POST /queue/QUEUE/job stores, GET takes, PATCH /job/ID completes. It has no way to store many at once.
type ocypodCaller struct {
	conn  *httpConn
	queue string
}

// dialOcypod makes the queue too: 201 the first time, 204 after that.
func dialOcypod() (*ocypodCaller, error) {
	conn, err := dialHTTP()
	if err != nil {
		return nil, err
	}
	queue := "/queue/" + os.Getenv("PEER_QUEUE")
	status, reply, err := conn.do("PUT", queue, ocypodJSON, []byte("{}"))
	if err == nil && status != 201 && status != 204 {
		err = unexpected("PUT", queue, status, reply)
	}
	return &ocypodCaller{conn, queue}, err
}

func openOcypod() (caller, error) { return dialOcypod() }

func (c *ocypodCaller) enqueue(payload []byte) error {
	body := append(append([]byte(`{"input":"`), payload...), `"}`...)
	status, reply, err := c.conn.do("POST", c.queue+"/job", ocypodJSON, body)
	if err == nil && status != 201 {
		err = unexpected("POST", c.queue+"/job", status, reply)
	}
	return err
}

func (c *ocypodCaller) enqueueMany([][]byte) error {
	return errors.New("ocypod stores one job at a time")
}

func workOcypod(concurrency int, handle func(payload []byte)) error {
	return eachWorker(concurrency, func() error {
		c, err := dialOcypod()
		for err == nil {
			err = c.work(handle)
		}
		return err
	})
}

// work takes one job and completes it, or pauses when there is none.
func (c *ocypodCaller) work(handle func(payload []byte)) error {
	status, reply, err := c.conn.do("GET", c.queue+"/job", "", nil)
	switch {
	case err != nil:
		return err
	case status == 204:
		time.Sleep(ocypodPause)
		return nil
	case status != 200:
		return unexpected("GET", c.queue+"/job", status, reply)
	}
	var job struct {
		ID    int64  `json:"id"`
		Input string `json:"input"`
	}
	if err := json.Unmarshal(reply, &job); err != nil {
		return err
	}
	handle([]byte(job.Input))
	path := fmt.Sprintf("/job/%d", job.ID)
	status, reply, err = c.conn.do("PATCH", path, ocypodJSON, []byte(`{"status":"completed"}`))
	if err == nil && status != 204 {
		err = unexpected("PATCH", path, status, reply)
	}
	return err
}
