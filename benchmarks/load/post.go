package main

import (
	"flag"
	"fmt"
	"sync/atomic"
	"time"
)

// post enqueues tasks. Closed loop without -rate: every connection posts as fast as it is answered. Open loop with it: posts start at
// the given rate however fast the server is, and latencies count from the moment at which each was to start.
func post(arguments []string) (*report, error) {
	var flags common
	set := flag.NewFlagSet("post", flag.ExitOnError)
	path := set.String("path", "/tasks", "where to post")
	expect := set.Int("expect", 201, "the status of a good reply")
	batch := set.Int("batch", 1, "tasks per request; above 1 they are sent as a JSON array")
	queues := set.Int("queues", 1, "spread the requests over that many job types, in turn: the -job-type with -0, -1, .. behind")
	rate := set.Float64("rate", 0, "requests per second, 0 for a closed loop")
	limit := set.Uint64("tasks", 0, "stop after that many tasks, 0 for no such bound")
	duration := set.Duration("duration", 5*time.Second, "how long to measure")
	warmup := set.Duration("warmup", 0, "how long to load before measuring")
	flags.parse(set, arguments)
	if *batch < 1 {
		return nil, fmt.Errorf("-batch %d is below 1", *batch)
	}
	clients, err := openClients(flags.url, flags.connections, 1)
	if err != nil {
		return nil, err
	}
	p := &poster{common: flags, path: *path, expect: *expect, batch: *batch, limit: *limit, queues: queueNames(flags.jobType, *queues)}
	span := newWindow(*warmup, *duration)
	var tallies []*tally
	if *rate > 0 {
		tallies, err = p.openLoop(clients, span, *rate)
	} else {
		tallies = p.closedLoop(clients, span)
	}
	if err != nil {
		return nil, err
	}
	took := *duration
	if last := time.Unix(0, p.last.Load()); last.Before(span.until) {
		took = last.Sub(span.from)
	}
	result := sum("post", flags.connections, took, tallies)
	result.Missing = p.missing.Load()
	return result, nil
}

type poster struct {
	common
	path     string
	expect   int
	batch    int
	limit    uint64
	queues   []string
	sequence atomic.Uint64
	last     atomic.Int64 // unix ns at which the latest counted reply came
	missing  atomic.Uint64
}

func (p *poster) closedLoop(clients []*client, span window) []*tally {
	return each(clients, func(_ int, c *client, t *tally) {
		var body []byte
		for start := time.Now(); start.Before(span.until); {
			count := 0
			if body, count = p.body(body[:0]); count == 0 {
				return
			}
			end := p.post(c, t, body, count, start, span)
			start = end
		}
	})
}

func (p *poster) openLoop(clients []*client, span window, rate float64) ([]*tally, error) {
	begin := time.Now()
	due := make(chan time.Duration, 1<<20)
	failed := make(chan error, 1)
	go func() { failed <- pace(begin, rate, span.until.Sub(begin), due, nil) }()
	giveUp := span.until.Add(5 * time.Second)
	late := span
	late.until = giveUp
	tallies := each(clients, func(_ int, c *client, t *tally) {
		var body []byte
		for moment := range due {
			now := time.Now()
			if now.After(giveUp) {
				p.missing.Add(1)
				continue
			}
			count := 0
			if body, count = p.body(body[:0]); count == 0 {
				continue
			}
			start := begin.Add(moment)
			if !start.Before(span.from) {
				t.of("behind").record(now.Sub(start))
			}
			p.post(c, t, body, count, start, late)
		}
	})
	return tallies, <-failed
}

// body appends one request's body to `to` and returns how many tasks it holds: none when the bound of tasks is used up.
func (p *poster) body(to []byte) ([]byte, int) {
	count := p.batch
	last := p.sequence.Add(uint64(count))
	if p.limit > 0 && last > p.limit {
		over := last - p.limit
		if over >= uint64(count) {
			return to, 0
		}
		count -= int(over)
	}
	first := last - uint64(p.batch)
	queue := p.queues[first/uint64(p.batch)%uint64(len(p.queues))]
	if p.batch == 1 {
		return appendTask(to, queue, first, p.payloadBytes), 1
	}
	for i := range count {
		separator := byte(',')
		if i == 0 {
			separator = '['
		}
		to = append(to, separator)
		to = appendTask(to, queue, first+uint64(i), p.payloadBytes)
	}
	return append(to, ']'), count
}

// post sends one body and counts its reply, with the time since start as its latency. It returns when the reply came.
func (p *poster) post(c *client, t *tally, body []byte, count int, start time.Time, span window) time.Time {
	status, reply, err := c.do("POST", p.path, body)
	end := time.Now()
	switch {
	case err != nil:
		t.failure(err)
		time.Sleep(5 * time.Millisecond) // a server that is away is not hammered
	case !span.holds(end):
	case status != p.expect:
		t.statuses[status]++
		t.problem("status", status, reply)
	default:
		t.statuses[status]++
		t.requests++
		t.tasks += uint64(count)
		t.of("request").record(end.Sub(start))
		p.last.Store(end.UnixNano())
	}
	return end
}
