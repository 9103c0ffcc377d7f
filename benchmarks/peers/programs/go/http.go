package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

const replyTimeout = 30 * time.Second

// An httpConn is one keep-alive connection with one request under way: net/http's own client costs several times as much, which the
// server that is measured would miss.
type httpConn struct {
	server *url.URL
	conn   net.Conn
	in     *bufio.Reader
	out    []byte
}

// dialHTTP connects to PEER_URL.
func dialHTTP() (*httpConn, error) {
	server, err := url.Parse(os.Getenv("PEER_URL"))
	if err != nil || server.Scheme != "http" {
		return nil, fmt.Errorf("%q is not an http URL", os.Getenv("PEER_URL"))
	}
	conn, err := net.DialTimeout("tcp", server.Host, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &httpConn{server: server, conn: conn, in: bufio.NewReader(conn)}, nil
}

// do sends a request and returns its reply's status and body.
func (c *httpConn) do(method, path, headers string, body []byte) (int, []byte, error) {
	c.out = fmt.Appendf(c.out[:0], "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n", method, path, c.server.Host, headers, len(body))
	if err := c.conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(append(c.out, body...)); err != nil {
		return 0, nil, err
	}
	reply, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return 0, nil, err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	return reply.StatusCode, text, err
}

// unexpected tells of a status that the server's documentation does not give for this request.
func unexpected(method, path string, status int, reply []byte) error {
	return fmt.Errorf("%s %s: %d %s", method, path, status, reply[:min(len(reply), 300)])
}

// eachWorker runs count workers side by side and returns the first error.
func eachWorker(count int, work func() error) error {
	failed := make(chan error)
	for range count {
		go func() { failed <- work() }()
	}
	return <-failed
}
