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

// hold keeps long polls open on an empty queue, each on its own connection and polling again when it ends, until -duration is over or
// SIGTERM comes. It writes a line `holding N` on stderr when all are open, so that the starting process can measure from there.
func hold(arguments []string) (*report, error) {
	var flags common
	set := flag.NewFlagSet("hold", flag.ExitOnError)
	polls := set.Int("polls", 10_000, "how many")
	wait := set.Int("wait", 55, "seconds that a poll may wait")
	stagger := set.Bool("stagger", false, "let the first polls wait 1..wait seconds, so that they come again evenly spread")
	queues := set.Int("queues", 1, "spread the polls over that many job types: the -job-type with -0, -1, .. behind")
	sources := set.Int("sources", 4, "local addresses to connect from, 127.0.0.1 upwards")
	duration := set.Duration("duration", 60*time.Second, "how long to hold them, at most")
	flags.parse(set, arguments)
	clients, err := openClients(flags.url, *polls, *sources)
	if err != nil {
		return nil, err
	}
	var over atomic.Bool
	var opened atomic.Int64
	begin := time.Now()
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		select {
		case <-stop:
		case <-time.After(*duration):
		}
		over.Store(true)
		for _, c := range clients {
			if conn := c.conn; conn != nil {
				_ = conn.SetDeadline(time.Now())
			}
		}
	}()
	go func() {
		// A poll is open when the server has read it; nothing says so to its client. All are written, and the server gets a second.
		for opened.Load() < int64(*polls) && !over.Load() {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		announce("holding " + strconv.Itoa(*polls))
	}()
	tallies := each(clients, func(index int, c *client, t *tally) {
		jobType := flags.jobType
		if *queues > 1 {
			jobType += "-" + strconv.Itoa(index%*queues)
		}
		seconds := *wait
		if *stagger {
			seconds = 1 + index%*wait
		}
		time.Sleep(time.Duration(index) * 100 * time.Microsecond) // ten thousand a second: the ramp is not what is measured
		opened.Add(1)
		for !over.Load() {
			start := time.Now()
			path := fmt.Sprintf("/poll?worker_id=hold-%d&task_type=%s&wait=%d", index, jobType, seconds)
			status, reply, err := c.do("GET", path, nil)
			if over.Load() {
				return
			}
			if err != nil {
				t.failure(err)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			t.requests++
			t.statuses[status]++
			if status != 204 {
				t.problem("status", status, reply)
				time.Sleep(100 * time.Millisecond)
				continue
			}
			t.of("overrun").record(time.Since(start) - time.Duration(seconds)*time.Second)
			seconds = *wait
		}
	})
	return sum("hold", *polls, time.Since(begin), tallies), nil
}
