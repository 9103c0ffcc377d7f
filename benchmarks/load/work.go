package main

import (
	"flag"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// mostTypes is how many job types the protocol lets a poll name.
const mostTypes = 100

// work polls and completes tasks on every connection. With -next each completion asks for the next task in the same request, as the
// protocol recommends; without it every task costs a poll and a completion. With -max above 1 a request carries a whole batch.
// With -keep tasks are claimed only, which shows the cost of claiming alone; their leases are left to lapse.
func work(arguments []string) (*report, error) {
	var flags common
	set := flag.NewFlagSet("work", flag.ExitOnError)
	next := set.Bool("next", true, "ask for the next tasks with each completion")
	batch := set.Int("max", 1, "tasks per request; above 1 by POST /poll and POST /outcomes")
	wait := set.Int("wait", 5, "seconds that a poll may wait")
	keep := set.Bool("keep", false, "claim only, complete nothing")
	queues := set.Int("queues", 1, "job types: each worker polls for its share of the -job-type with -0, -1, .. behind, at most 100")
	leaseSeconds := set.Int("lease-seconds", 0, "the leases' length, 0 for the tasks' own")
	limit := set.Uint64("tasks", 0, "stop after that many tasks, 0 for no such bound")
	duration := set.Duration("duration", 5*time.Second, "how long to measure, at most")
	warmup := set.Duration("warmup", 0, "how long to work before measuring")
	flags.parse(set, arguments)
	clients, err := openClients(flags.url, flags.connections, 1)
	if err != nil {
		return nil, err
	}
	names := queueNames(flags.jobType, *queues)
	if share := (len(names) + flags.connections - 1) / flags.connections; share > mostTypes {
		return nil, fmt.Errorf("-queues %d leaves %d job types to each connection, and a poll takes %d", *queues, share, mostTypes)
	}
	span := newWindow(*warmup, *duration)
	crew := &crew{
		common: flags, next: *next && !*keep, keep: *keep, batch: *batch, wait: *wait, leaseSeconds: *leaseSeconds, limit: *limit, span: span, names: names,
		seed: maphash.MakeSeed(), seen: make(map[uint64]struct{}, 1<<17), finished: make(chan struct{}),
	}
	go crew.hangUp(clients)
	tallies := each(clients, crew.run)
	took := *duration
	if last := time.Unix(0, crew.last.Load()); last.Before(span.until) {
		took = last.Sub(span.from)
	}
	result := sum("work", flags.connections, took, tallies)
	return result, nil
}

// A crew is the workers of one run and what they share.
type crew struct {
	common
	next         bool
	keep         bool
	batch        int
	wait         int
	leaseSeconds int
	limit        uint64
	span         window
	names        []string

	asked    atomic.Uint64 // tasks done, in hand or asked for: what may still be asked for is the bound less these
	done     atomic.Uint64
	last     atomic.Int64 // unix ns at which the latest task was done
	finished chan struct{}
	once     sync.Once
	over     atomic.Bool

	seed  maphash.Seed
	mutex sync.Mutex
	seen  map[uint64]struct{}
}

// hangUp closes the connections of workers that still wait for a task one second after the end.
func (w *crew) hangUp(clients []*client) {
	select {
	case <-w.finished:
	case <-time.After(time.Until(w.span.until)):
	}
	w.over.Store(true)
	time.Sleep(time.Second)
	for _, c := range clients {
		if conn := c.conn; conn != nil {
			_ = conn.SetDeadline(time.Now())
		}
	}
}

func (w *crew) run(index int, c *client, t *tally) {
	worker := &worker{crew: w, c: c, t: t, id: "bench-" + strconv.Itoa(index)}
	types := w.share(index)
	worker.types = `"` + strings.Join(types, `","`) + `"`
	worker.pollPath = fmt.Sprintf("/poll?worker_id=%s&task_type=%s&wait=%d", worker.id, strings.Join(types, ","), w.wait)
	if w.leaseSeconds > 0 {
		worker.pollPath += "&lease_seconds=" + strconv.Itoa(w.leaseSeconds)
	}
	for !w.over.Load() {
		count := w.reserve()
		if count == 0 {
			time.Sleep(time.Millisecond) // the others have the last tasks in hand
			continue
		}
		if !worker.poll(count) {
			continue
		}
		for len(worker.tasks) > 0 && !w.keep {
			// The last completions ask for nothing: what they would be given, nobody would do.
			count := 0
			if w.next && !w.over.Load() {
				count = w.reserve()
			}
			if !worker.complete(count) {
				break
			}
		}
	}
}

// share lists the job types of one worker: every one has a worker, and every worker has one.
func (w *crew) share(index int) []string {
	if len(w.names) <= w.connections {
		return w.names[index%len(w.names) : index%len(w.names)+1]
	}
	var types []string
	for i := index; i < len(w.names); i += w.connections {
		types = append(types, w.names[i])
	}
	return types
}

// reserve returns how many tasks may be asked for: a batch, or what is left of the bound. Without this the last requests would wait
// for tasks that others hold.
func (w *crew) reserve() int {
	for {
		asked := w.asked.Load()
		count := uint64(w.batch)
		if w.limit > 0 {
			count = min(count, w.limit-min(asked, w.limit))
		}
		if w.asked.CompareAndSwap(asked, asked+count) {
			return int(count)
		}
	}
}

// giveBack returns what was reserved and not received.
func (w *crew) giveBack(count int) {
	w.asked.Add(-uint64(count))
}

// A worker is one connection's state. Its tasks are slices of the latest reply.
type worker struct {
	*crew
	c        *client
	t        *tally
	id       string
	types    string // its job types, as the elements of a JSON array
	pollPath string
	body     []byte
	path     []byte
	tasks    []task
}

// poll asks for up to count tasks and keeps them; it reports whether there were any.
func (w *worker) poll(count int) bool {
	defer func() { w.giveBack(count - len(w.tasks)) }()
	start := time.Now()
	var status int
	var reply []byte
	var err error
	if w.batch == 1 {
		status, reply, err = w.c.do("GET", w.pollPath, nil)
	} else {
		w.body = fmt.Appendf(w.body[:0], `{"worker_id":"%s","task_type":[%s],"wait":%d,"max":%d`, w.id, w.types, w.wait, count)
		if w.leaseSeconds > 0 {
			w.body = fmt.Appendf(w.body, `,"lease_seconds":%d`, w.leaseSeconds)
		}
		w.body = append(w.body, '}')
		status, reply, err = w.c.do("POST", "/poll", w.body)
	}
	w.tasks = w.tasks[:0]
	if !w.answered(err) {
		return false
	}
	w.count(status)
	switch status {
	case 200:
		if !w.take(reply) {
			return false
		}
		w.latency("poll", start)
		if w.keep {
			w.finish(uint64(len(w.tasks)))
		}
		return len(w.tasks) > 0
	case 204:
		return false
	}
	w.refused(status, reply)
	return false
}

// complete reports the tasks in hand and takes up to next others; it reports whether the round went well.
func (w *worker) complete(next int) bool {
	defer func() { w.giveBack(next - len(w.tasks)) }()
	start := time.Now()
	var status int
	var reply []byte
	var err error
	if w.batch == 1 {
		w.path = fmt.Appendf(w.path[:0], "/tasks/%s/complete", w.tasks[0].id)
		w.body = append(w.body[:0], `{"lease_token":"`...)
		w.body = append(w.body, w.tasks[0].token...)
		w.body = append(w.body, '"')
		w.body = w.appendNext(w.body, next)
		status, reply, err = w.c.do("POST", string(w.path), append(w.body, '}'))
	} else {
		w.body = fmt.Appendf(w.body[:0], `{"worker_id":"%s","outcomes":[`, w.id)
		for i, t := range w.tasks {
			if i > 0 {
				w.body = append(w.body, ',')
			}
			w.body = fmt.Appendf(w.body, `{"id":"%s","lease_token":"%s","outcome":"complete"}`, t.id, t.token)
		}
		w.body = append(w.body, ']')
		w.body = w.appendNext(w.body, next)
		status, reply, err = w.c.do("POST", "/outcomes", append(w.body, '}'))
	}
	reported := uint64(len(w.tasks))
	w.tasks = w.tasks[:0]
	if !w.answered(err) {
		return false
	}
	w.count(status)
	if status != 200 {
		w.refused(status, reply)
		return false
	}
	tasks, refused, err := tasksOf(reply, w.tasks)
	if err != nil {
		w.t.problem("malformed", status, reply)
		return false
	}
	if refused > 0 {
		w.t.errors["refused"] += refused - 1
		w.t.problem("refused", status, reply)
	}
	w.tasks = tasks
	w.remember()
	w.latency("complete", start)
	w.finish(reported - refused)
	return true
}

func (w *worker) appendNext(body []byte, next int) []byte {
	if next == 0 {
		return body
	}
	if len(w.names) > 1 {
		return fmt.Appendf(body, `,"next":{"max":%d,"wait":%d,"task_type":[%s]}`, next, w.wait, w.types)
	}
	return fmt.Appendf(body, `,"next":{"max":%d,"wait":%d}`, next, w.wait)
}

// take keeps a poll's tasks.
func (w *worker) take(reply []byte) bool {
	tasks, _, err := tasksOf(reply, w.tasks)
	if err != nil {
		w.t.problem("malformed", 200, reply)
		return false
	}
	w.tasks = tasks
	w.remember()
	return true
}

// remember counts tasks that a worker was given before: with no failures and no lapsed leases that must not happen.
func (w *worker) remember() {
	if len(w.tasks) == 0 {
		return
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for _, t := range w.tasks {
		key := maphash.Bytes(w.seed, t.id)
		if _, again := w.seen[key]; again {
			w.t.duplicates++
		}
		w.seen[key] = struct{}{}
	}
}

// finish counts tasks as done, if the window holds this moment, and ends the run when there are enough.
func (w *worker) finish(count uint64) {
	now := time.Now()
	total := w.done.Add(count)
	if w.span.holds(now) {
		w.t.tasks += count
		w.last.Store(now.UnixNano())
	}
	if w.limit > 0 && total >= w.limit {
		w.over.Store(true)
		w.once.Do(func() { close(w.finished) })
	}
}

func (w *worker) latency(name string, start time.Time) {
	if now := time.Now(); w.span.holds(now) {
		w.t.of(name).record(now.Sub(start))
	}
}

func (w *worker) count(status int) {
	if w.span.holds(time.Now()) {
		w.t.statuses[status]++
		w.t.requests++
	}
}

// answered reports whether a reply came. A request cut off after the end was one that waited for tasks: no error.
func (w *worker) answered(err error) bool {
	if err == nil {
		return true
	}
	if !w.over.Load() {
		w.t.failure(err)
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

func (w *worker) refused(status int, reply []byte) {
	w.t.problem("status", status, reply)
	time.Sleep(5 * time.Millisecond)
}
