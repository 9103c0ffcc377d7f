package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// latency posts tasks at a steady rate to a queue that pollers wait on, and times each from the moment its POST was to start to the
// moment its poller holds the whole reply, by one clock. Payloads carry the sequence number that ties the two together. It writes a line
// `posting` on stderr when it begins, and ends early on SIGTERM.
func latency(arguments []string) (*report, error) {
	var flags common
	set := flag.NewFlagSet("latency", flag.ExitOnError)
	pollers := set.Int("pollers", 16, "workers that wait on the queue, each on its own connection")
	rate := set.Float64("rate", 200, "tasks posted per second; 0: as fast as workers take them, which is a closed loop that shows the capacity")
	backlog := set.Int("backlog", 128, "with -rate 0: tasks posted and not yet received, at most")
	wait := set.Int("wait", 20, "seconds that a poll may wait")
	duration := set.Duration("duration", 5*time.Second, "how long to measure")
	warmup := set.Duration("warmup", time.Second, "how long to post before measuring")
	flags.parse(set, arguments)
	clients, err := openClients(flags.url, flags.connections+*pollers, 1)
	if err != nil {
		return nil, err
	}
	run := &dispatch{common: flags, wait: *wait, span: newWindow(*warmup, *duration)}
	if *rate == 0 {
		run.credit = make(chan struct{}, *backlog)
	}
	run.begin = time.Now()
	most := *rate
	if most == 0 {
		most = mostPerSecond
	}
	run.due = make([]atomic.Int64, int((*warmup+*duration).Seconds()*most)+16)
	queue := make(chan time.Duration, len(run.due))
	failed := make(chan error, 1)
	go func() {
		time.Sleep(200 * time.Millisecond) // the pollers wait by then
		announce("posting")
		if *rate > 0 {
			failed <- pace(run.begin, *rate, run.span.until.Sub(run.begin), queue, stopped())
		} else {
			failed <- run.follow(*backlog, queue, stopped())
		}
		run.settle(clients[flags.connections:])
	}()
	tallies := each(clients, func(index int, c *client, t *tally) {
		if index < flags.connections {
			run.post(c, t, queue)
		} else {
			run.receive(index, c, t)
		}
	})
	if err := <-failed; err != nil {
		return nil, err
	}
	took := min(*duration, time.Since(run.span.from))
	result := sum("latency", flags.connections, took, tallies)
	result.Missing = run.posted.Load() - run.received.Load()
	return result, nil
}

// A dispatch is what the posters and pollers of one run share.
type dispatch struct {
	common
	wait     int
	span     window
	begin    time.Time
	due      []atomic.Int64 // by sequence number: when the POST was to start, ns since begin
	sequence atomic.Uint64
	posted   atomic.Uint64
	received atomic.Uint64
	over     atomic.Bool
	credit   chan struct{} // with -rate 0: one for each task that may be posted
}

// mostPerSecond is more than any gateway does on one connection's worth of client: room for the moments of a closed loop.
const mostPerSecond = 50_000

// follow sends a moment on due whenever fewer than backlog tasks are under way, until the run is over; then it closes due.
func (d *dispatch) follow(backlog int, due chan<- time.Duration, stop <-chan struct{}) error {
	defer close(due)
	for range backlog {
		d.credit <- struct{}{}
	}
	end := time.After(time.Until(d.span.until))
	for range len(d.due) {
		select {
		case <-d.credit:
			due <- time.Since(d.begin)
		case <-end:
			return nil
		case <-stop:
			return nil
		}
	}
	return fmt.Errorf("more than %d tasks a second: the run has no room for their times", mostPerSecond)
}

// stopped returns a channel that SIGTERM closes.
func stopped() <-chan struct{} {
	signals, stop := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		close(stop)
	}()
	return stop
}

// post sends the tasks that come due.
func (d *dispatch) post(c *client, t *tally, queue <-chan time.Duration) {
	var body []byte
	for moment := range queue {
		sequence := d.sequence.Add(1) - 1
		d.due[sequence].Store(int64(moment))
		counted := !d.begin.Add(moment).Before(d.span.from)
		if counted {
			t.of("behind").record(time.Since(d.begin) - moment)
		}
		body = appendTask(body[:0], d.jobType, sequence, d.payloadBytes)
		status, reply, err := c.do("POST", "/tasks", body)
		switch {
		case err != nil:
			t.failure(err)
			continue
		case status != 201:
			t.problem("status", status, reply)
			continue
		}
		d.posted.Add(1)
		if counted {
			t.requests++
			t.statuses[status]++
			t.of("post").record(time.Since(d.begin) - moment)
		}
	}
}

// receive polls, notes when each task came, and completes it with the next poll in the same request.
func (d *dispatch) receive(index int, c *client, t *tally) {
	pollPath := fmt.Sprintf("/poll?worker_id=bench-%d&task_type=%s&wait=%d", index, d.jobType, d.wait)
	var tasks []task
	for !d.over.Load() {
		method, path, body := "GET", pollPath, []byte(nil)
		if len(tasks) > 0 {
			method, path = "POST", "/tasks/"+string(tasks[0].id)+"/complete"
			body = []byte(`{"lease_token":"` + string(tasks[0].token) + `","next":{"max":1,"wait":` + strconv.Itoa(d.wait) + `}}`)
		}
		status, reply, err := c.do(method, path, body)
		arrival := time.Since(d.begin)
		tasks = tasks[:0]
		if err != nil {
			if !d.over.Load() {
				t.failure(err)
			}
			continue
		}
		t.statuses[status]++
		if status == 204 {
			continue
		}
		if status != 200 {
			t.problem("status", status, reply)
			continue
		}
		if tasks, _, err = tasksOf(reply, tasks); err != nil {
			t.problem("malformed", status, reply)
			tasks = tasks[:0]
			continue
		}
		for _, received := range tasks {
			d.note(t, received, arrival)
		}
	}
}

func (d *dispatch) note(t *tally, received task, arrival time.Duration) {
	sequence := number(received.payload, "n")
	if sequence < 0 || sequence >= len(d.due) {
		t.problem("foreign", 200, received.payload)
		return
	}
	due := time.Duration(d.due[sequence].Swap(-1))
	if due < 0 {
		t.duplicates++
		return
	}
	d.received.Add(1)
	counted := !d.begin.Add(due).Before(d.span.from)
	if d.credit != nil {
		// What counts here is the rate: of what came within the time.
		counted = d.span.holds(d.begin.Add(arrival))
		select {
		case d.credit <- struct{}{}:
		default:
		}
	}
	if counted {
		t.tasks++
		t.of("dispatch").record(arrival - due)
	}
}

// settle waits up to five seconds for the last tasks, then sends the pollers home.
func (d *dispatch) settle(pollers []*client) {
	time.Sleep(100 * time.Millisecond)
	for until := time.Now().Add(5 * time.Second); time.Now().Before(until) && d.received.Load() < d.posted.Load(); {
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // the last tasks' completions are under way
	d.over.Store(true)
	for _, c := range pollers {
		if conn := c.conn; conn != nil {
			_ = conn.SetDeadline(time.Now())
		}
	}
}
