package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Faktory, by its protocol specification: PUSH and PUSHB store, FETCH takes and waits, ACK completes, BEAT keeps a worker known.
// PEER_URL is tcp://:PASSWORD@host:7419.
type faktoryCaller struct {
	conn net.Conn
	in   *bufio.Reader
}

const faktoryBeat = 15 * time.Second // what the specification recommends

var faktoryWorker = rand.Text()

// dialFaktory connects and says HELLO; a worker names itself too.
func dialFaktory(worker bool) (*faktoryCaller, error) {
	server, err := url.Parse(os.Getenv("PEER_URL"))
	if err != nil || server.Scheme != "tcp" {
		return nil, fmt.Errorf("%q is not a tcp URL", os.Getenv("PEER_URL"))
	}
	conn, err := net.DialTimeout("tcp", server.Host, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &faktoryCaller{conn, bufio.NewReader(conn)}
	greeting, err := c.reply()
	if err != nil {
		return nil, err
	}
	var asks struct {
		Iterations int    `json:"i"`
		Salt       string `json:"s"`
	}
	if err := json.Unmarshal(bytes.TrimPrefix(greeting, []byte("HI ")), &asks); err != nil {
		return nil, fmt.Errorf("greeting %q: %w", greeting, err)
	}
	hello := map[string]any{"v": 2}
	if asks.Iterations > 0 {
		password, _ := server.User.Password()
		hash := []byte(password + asks.Salt)
		for range asks.Iterations {
			sum := sha256.Sum256(hash)
			hash = sum[:]
		}
		hello["pwdhash"] = hex.EncodeToString(hash)
	}
	if worker {
		hello["hostname"], hello["wid"], hello["pid"], hello["labels"] = "bench", faktoryWorker, os.Getpid(), []string{"bench"}
	}
	words, err := json.Marshal(hello)
	if err != nil {
		return nil, err
	}
	_, err = c.do("HELLO " + string(words))
	return c, err
}

func openFaktory() (caller, error) { return dialFaktory(false) }

func (c *faktoryCaller) enqueue(payload []byte) error {
	_, err := c.do("PUSH " + faktoryJob(payload))
	return err
}

func (c *faktoryCaller) enqueueMany(payloads [][]byte) error {
	jobs := make([]string, len(payloads))
	for i, payload := range payloads {
		jobs[i] = faktoryJob(payload)
	}
	refused, err := c.do("PUSHB [" + strings.Join(jobs, ",") + "]")
	if err == nil && string(refused) != "{}" {
		err = fmt.Errorf("PUSHB: %s", refused)
	}
	return err
}

func workFaktory(concurrency int, handle func(payload []byte)) error {
	var started sync.Once
	return eachWorker(concurrency, func() error {
		c, err := dialFaktory(true)
		if err != nil {
			return err
		}
		started.Do(func() { go beatFaktory() })
		for err == nil {
			err = c.work(handle)
		}
		return err
	})
}

// work takes one job, if there is one within the server's own wait, and acknowledges it.
func (c *faktoryCaller) work(handle func(payload []byte)) error {
	text, err := c.do("FETCH " + os.Getenv("PEER_QUEUE"))
	if err != nil || len(text) == 0 {
		return err
	}
	var job struct {
		ID   string   `json:"jid"`
		Args []string `json:"args"`
	}
	if err := json.Unmarshal(text, &job); err != nil {
		return err
	}
	handle([]byte(job.Args[0]))
	_, err = c.do(`ACK {"jid":"` + job.ID + `"}`)
	return err
}

func beatFaktory() {
	c, err := dialFaktory(true)
	for err == nil {
		_, err = c.do(`BEAT {"wid":"` + faktoryWorker + `"}`)
		time.Sleep(faktoryBeat)
	}
	fmt.Fprintf(os.Stderr, "peers: BEAT: %v\n", err)
}

func faktoryJob(payload []byte) string {
	return fmt.Sprintf(`{"jid":"%s","jobtype":"empty","queue":"%s","args":["%s"]}`, rand.Text(), os.Getenv("PEER_QUEUE"), payload)
}

func (c *faktoryCaller) do(command string) ([]byte, error) {
	if err := c.conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c.conn, command+"\r\n"); err != nil {
		return nil, err
	}
	return c.reply()
}

// reply reads a simple string, an error or a bulk string of RESP; a nil one is empty.
func (c *faktoryCaller) reply() ([]byte, error) {
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	line = bytes.TrimRight(line, "\r\n")
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("an empty line instead of a reply")
	case line[0] == '+':
		return line[1:], nil
	case line[0] == '$':
		size, err := strconv.Atoi(string(line[1:]))
		if err != nil || size < 0 {
			return nil, err
		}
		text := make([]byte, size+2)
		_, err = io.ReadFull(c.in, text)
		return text[:size], err
	}
	return nil, fmt.Errorf("faktory: %s", line)
}
