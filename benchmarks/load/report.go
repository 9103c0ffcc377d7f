package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

// A report is what one run prints. Latencies are in milliseconds. Statuses counts every reply by its HTTP status; Errors counts by kind
// what brought no usable reply (connect, closed, timeout, malformed, status: another one than expected, refused: an item of a batch).
type report struct {
	Command        string             `json:"command"`
	Connections    int                `json:"connections"`
	Seconds        float64            `json:"seconds"`
	Requests       uint64             `json:"requests"`
	Tasks          uint64             `json:"tasks"`
	RequestsPerSec float64            `json:"requests_per_second"`
	TasksPerSec    float64            `json:"tasks_per_second"`
	Latency        map[string]summary `json:"latency_ms"`
	Statuses       map[string]uint64  `json:"statuses"`
	Errors         map[string]uint64  `json:"errors"`
	FirstProblem   string             `json:"first_problem,omitempty"`
	Duplicates     uint64             `json:"duplicates"`
	Missing        uint64             `json:"missing"`
	CPUSeconds     float64            `json:"cpu_seconds"`
}

func (r *report) print(to io.Writer) error {
	encoder := json.NewEncoder(to)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r)
}

// A tally is what one goroutine counted; the goroutines' tallies are added up into the report.
type tally struct {
	requests     uint64
	tasks        uint64
	duplicates   uint64
	statuses     map[int]uint64
	errors       map[string]uint64
	firstProblem string
	latency      map[string]*histogram
}

func newTally() *tally {
	return &tally{statuses: map[int]uint64{}, errors: map[string]uint64{}, latency: map[string]*histogram{}}
}

// of returns the histogram of that name, made when first asked for.
func (t *tally) of(name string) *histogram {
	h := t.latency[name]
	if h == nil {
		h = &histogram{}
		t.latency[name] = h
	}
	return h
}

// problem counts a reply with an unexpected status or an unusable body, and keeps the first one's text.
func (t *tally) problem(kind string, status int, reply []byte) {
	t.errors[kind]++
	if t.firstProblem == "" {
		t.firstProblem = strconv.Itoa(status) + " " + string(reply[:min(len(reply), 400)])
	}
}

// failure counts a request that got no reply.
func (t *tally) failure(err error) {
	var timeout net.Error
	kind := "closed"
	switch {
	case errors.Is(err, errConnect):
		kind = "connect"
	case errors.Is(err, errMalformed):
		kind = "malformed"
	case errors.As(err, &timeout) && timeout.Timeout():
		kind = "timeout"
	}
	t.errors[kind]++
	if t.firstProblem == "" {
		t.firstProblem = err.Error()
	}
}

// reset forgets what was counted while warming up.
func (t *tally) reset() {
	*t = *newTally()
}

// sum adds the tallies up, over seconds of measuring.
func sum(command string, connections int, took time.Duration, tallies []*tally) *report {
	r := &report{
		Command: command, Connections: connections, Seconds: took.Seconds(),
		Latency: map[string]summary{}, Statuses: map[string]uint64{}, Errors: map[string]uint64{},
	}
	merged := map[string]*histogram{}
	for _, t := range tallies {
		r.Requests += t.requests
		r.Tasks += t.tasks
		r.Duplicates += t.duplicates
		for status, count := range t.statuses {
			r.Statuses[strconv.Itoa(status)] += count
		}
		for kind, count := range t.errors {
			r.Errors[kind] += count
		}
		if r.FirstProblem == "" {
			r.FirstProblem = t.firstProblem
		}
		for name, h := range t.latency {
			if merged[name] == nil {
				merged[name] = &histogram{}
			}
			merged[name].merge(h)
		}
	}
	for name, h := range merged {
		r.Latency[name] = h.summary()
	}
	if took > 0 {
		r.RequestsPerSec = float64(r.Requests) / took.Seconds()
		r.TasksPerSec = float64(r.Tasks) / took.Seconds()
	}
	r.CPUSeconds = cpuSeconds()
	return r
}

// cpuSeconds returns what this process has used so far, user and system.
func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// announce tells the starting process on stderr that a stage is reached.
func announce(words string) {
	_, _ = io.WriteString(os.Stderr, words+"\n")
}
