package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"
)

// authorization is the header that every request carries, with the line break in front of it; empty for none.
var authorization string

var (
	errConnect   = errors.New("cannot connect")
	errMalformed = errors.New("malformed reply")
)

// A client speaks HTTP/1.1 over one keep-alive connection, one request at a time. It does just what this load needs (no TLS, redirects,
// proxies or trailers), since net/http costs several times as much and would take the cores from the server that is measured.
type client struct {
	address string
	source  net.Addr
	timeout time.Duration
	conn    net.Conn
	out     []byte
	in      []byte
	filled  int
}

// newClient takes the server's address as http://host:port. source is the local address to connect from, empty for any.
func newClient(server string, source string, timeout time.Duration) (*client, error) {
	parsed, err := url.Parse(server)
	if err != nil || parsed.Scheme != "http" || parsed.Host == "" || parsed.Path != "" {
		return nil, fmt.Errorf("-url %q is not http://host:port", server)
	}
	c := &client{address: parsed.Host, timeout: timeout, in: make([]byte, 1024)}
	if source != "" {
		c.source = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	return c, nil
}

func (c *client) connect() error {
	if c.conn != nil {
		return nil
	}
	dialer := net.Dialer{LocalAddr: c.source, Timeout: 10 * time.Second, KeepAlive: -1}
	conn, err := dialer.Dial("tcp", c.address)
	if err != nil {
		return fmt.Errorf("%w: %v", errConnect, err)
	}
	c.conn = conn
	c.filled = 0
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// do sends one request and returns its reply's status and body; the body is good until the next call. A nil body sends none.
// After an error the connection is closed, and the next call opens another.
func (c *client) do(method, path string, body []byte) (int, []byte, error) {
	if err := c.connect(); err != nil {
		return 0, nil, err
	}
	out := c.out[:0]
	out = append(out, method...)
	out = append(out, ' ')
	out = append(out, path...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, c.address...)
	out = append(out, authorization...)
	if body != nil {
		out = append(out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(len(body)), 10)
	}
	out = append(out, "\r\n\r\n"...)
	out = append(out, body...)
	c.out = out
	_ = c.conn.SetDeadline(time.Now().Add(c.timeout))
	if _, err := c.conn.Write(out); err != nil {
		c.close()
		return 0, nil, err
	}
	status, reply, closing, err := c.receive()
	if err != nil || closing {
		c.close()
	}
	return status, reply, err
}

func (c *client) receive() (status int, reply []byte, closing bool, err error) {
	c.filled = 0
	headEnd := -1
	for headEnd < 0 {
		from := max(c.filled-3, 0)
		if err := c.fill(); err != nil {
			return 0, nil, true, err
		}
		if at := bytes.Index(c.in[from:c.filled], []byte("\r\n\r\n")); at >= 0 {
			headEnd = from + at
		}
	}
	head := c.in[:headEnd]
	if len(head) < 12 || !bytes.HasPrefix(head, []byte("HTTP/1.1 ")) {
		return 0, nil, true, errMalformed
	}
	status, err = strconv.Atoi(string(head[9:12]))
	if err != nil {
		return 0, nil, true, errMalformed
	}
	length, chunked := 0, false
	if length, chunked, closing, err = framing(head); err != nil {
		return 0, nil, true, err
	}
	start := headEnd + 4
	if chunked {
		reply, err = c.chunks(start)
		return status, reply, closing, err
	}
	if status == 204 || status == 304 {
		length = 0
	}
	for c.filled < start+length {
		if err := c.fill(); err != nil {
			return 0, nil, true, err
		}
	}
	return status, c.in[start : start+length], closing, nil
}

// framing reads from a reply's head what tells where its body ends.
func framing(head []byte) (length int, chunked, closing bool, err error) {
	for {
		next := bytes.Index(head, []byte("\r\n"))
		if next < 0 {
			return length, chunked, closing, nil
		}
		head = head[next+2:]
		end := bytes.IndexByte(head, '\r')
		if end < 0 {
			end = len(head)
		}
		name, value, found := bytes.Cut(head[:end], []byte(":"))
		if !found {
			return 0, false, false, errMalformed
		}
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 {
				return 0, false, false, errMalformed
			}
		case len(name) == 17 && bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked"))
		case len(name) == 10 && bytes.EqualFold(name, []byte("connection")):
			closing = bytes.EqualFold(bytes.TrimSpace(value), []byte("close"))
		}
	}
}

// chunks reads a chunked body that begins at start and moves its parts together.
func (c *client) chunks(start int) ([]byte, error) {
	read, write := start, start
	for {
		var line int
		for {
			if line = bytes.Index(c.in[read:c.filled], []byte("\r\n")); line >= 0 {
				break
			}
			if err := c.fill(); err != nil {
				return nil, err
			}
		}
		size, err := strconv.ParseUint(string(c.in[read:read+line]), 16, 31)
		if err != nil {
			return nil, errMalformed
		}
		read += line + 2
		for c.filled < read+int(size)+2 {
			if err := c.fill(); err != nil {
				return nil, err
			}
		}
		copy(c.in[write:], c.in[read:read+int(size)])
		write += int(size)
		read += int(size) + 2
		if size == 0 {
			return c.in[start:write], nil
		}
	}
}

// fill reads once, into a buffer that doubles when it is full.
func (c *client) fill() error {
	if c.filled == len(c.in) {
		c.in = append(c.in, make([]byte, len(c.in))...)
	}
	n, err := c.conn.Read(c.in[c.filled:])
	c.filled += n
	if n > 0 {
		return nil
	}
	return err
}
