package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
)

// lmstfy, by its README: PUT /api/NAMESPACE/QUEUE publishes, GET consumes and waits, DELETE ../job/ID acknowledges.
// PEER_URL is http://host:port/NAMESPACE?token=TOKEN. Its documentation has no way to publish many at once.
type lmstfyCaller struct {
	conn    *httpConn
	queue   string
	headers string
}

func dialLmstfy() (*lmstfyCaller, error) {
	conn, err := dialHTTP()
	if err != nil {
		return nil, err
	}
	namespace := strings.Trim(conn.server.Path, "/")
	headers := "X-Token: " + conn.server.Query().Get("token") + "\r\n"
	return &lmstfyCaller{conn, "/api/" + namespace + "/" + os.Getenv("PEER_QUEUE"), headers}, nil
}

func openLmstfy() (caller, error) { return dialLmstfy() }

func (c *lmstfyCaller) enqueue(payload []byte) error {
	path := c.queue + "?tries=25"
	status, reply, err := c.conn.do("PUT", path, c.headers, payload)
	if err == nil && status != 201 {
		err = unexpected("PUT", path, status, reply)
	}
	return err
}

func (c *lmstfyCaller) enqueueMany([][]byte) error {
	return errors.New("lmstfy publishes one job at a time")
}

func workLmstfy(concurrency int, handle func(payload []byte)) error {
	return eachWorker(concurrency, func() error {
		c, err := dialLmstfy()
		for err == nil {
			err = c.work(handle)
		}
		return err
	})
}

// work takes one job, if there is one within 3 s, and deletes it.
func (c *lmstfyCaller) work(handle func(payload []byte)) error {
	path := c.queue + "?timeout=3&ttr=30"
	status, reply, err := c.conn.do("GET", path, c.headers, nil)
	switch {
	case err != nil || status == 404:
		return err
	case status != 200:
		return unexpected("GET", path, status, reply)
	}
	var job struct {
		ID   string `json:"job_id"`
		Data []byte `json:"data"` // base64, which encoding/json undoes for []byte
	}
	if err := json.Unmarshal(reply, &job); err != nil {
		return err
	}
	handle(job.Data)
	path = c.queue + "/job/" + job.ID
	status, reply, err = c.conn.do("DELETE", path, c.headers, nil)
	if err == nil && status != 204 {
		err = unexpected("DELETE", path, status, reply)
	}
	return err
}
