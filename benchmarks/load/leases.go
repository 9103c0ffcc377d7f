package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// leases claims tasks in batches and then keeps their leases by `POST /heartbeats`, in a closed loop on every connection: one beat after
// the other, each of all leases that this connection holds. It ends after -duration or on SIGTERM. With -lapse it gives every lease
// what is left until one common moment instead, and then falls silent, as workers that died.
//
// It writes a line `holding N` on stderr when all are claimed, with -lapse `holding N until T` (unix ms) when all end at that moment.
func leases(arguments []string) (*report, error) {
	var flags common
	set := flag.NewFlagSet("leases", flag.ExitOnError)
	count := set.Int("tasks", 10_000, "how many leases, all connections together")
	batch := set.Int("max", 1000, "leases per request")
	leaseSeconds := set.Int("lease-seconds", 600, "their length")
	lapse := set.Bool("lapse", false, "let all of them end at one moment")
	duration := set.Duration("duration", 10*time.Minute, "how long to beat, at most")
	flags.parse(set, arguments)
	clients, err := openClients(flags.url, flags.connections, 1)
	if err != nil {
		return nil, err
	}
	stop := stopped()
	var claimed, lapsing sync.WaitGroup
	claimed.Add(len(clients))
	lapsing.Add(len(clients))
	var held atomic.Int64
	var late atomic.Bool
	var begun, until time.Time
	start := time.Now()
	ready := make(chan struct{})
	go func() {
		claimed.Wait()
		begun = time.Now()
		// Keeping a lease costs about what claiming it did: twice that is enough, and some seconds for what is slow besides.
		until = begun.Add(2*begun.Sub(start) + 3*time.Second)
		close(ready)
		if *lapse {
			lapsing.Wait()
			if late.Load() {
				announce("not every lease was given the common end: a heartbeat failed, or all took longer than claiming")
				os.Exit(1)
			}
			announce(fmt.Sprintf("holding %d until %d", held.Load(), until.UnixMilli()))
		} else {
			announce("holding " + strconv.FormatInt(held.Load(), 10))
		}
	}()
	end := time.After(*duration)
	over := make(chan struct{})
	go func() {
		select {
		case <-stop:
		case <-end:
		}
		close(over)
	}()
	tallies := each(clients, func(index int, c *client, t *tally) {
		share := (*count + index) / len(clients) // the shares add up to count
		k := &keeper{common: flags, c: c, t: t, id: "bench-" + strconv.Itoa(index), batch: *batch, leaseSeconds: *leaseSeconds}
		k.claim(share)
		held.Add(int64(len(k.held)))
		if len(k.held) < share {
			t.problem("unclaimed", 0, []byte(strconv.Itoa(share-len(k.held))))
		}
		claimed.Done()
		<-ready
		if *lapse {
			if !k.beat(nil, until) {
				late.Store(true)
			}
			lapsing.Done()
			<-over
			return
		}
		lapsing.Done()
		for len(k.held) > 0 {
			began := time.Now()
			if !k.beat(over, time.Time{}) {
				return
			}
			t.of("beat").record(time.Since(began))
		}
	})
	return sum("leases", flags.connections, time.Since(begun), tallies), nil
}

// A keeper is one connection and the leases that it holds.
type keeper struct {
	common
	c            *client
	t            *tally
	id           string
	batch        int
	leaseSeconds int
	held         []lease
	body         []byte
}

type lease struct {
	id    string
	token string
}

// claim polls until it holds count leases, or a poll brings nothing.
func (k *keeper) claim(count int) {
	for len(k.held) < count {
		body := fmt.Sprintf(`{"worker_id":"%s","task_type":["%s"],"wait":1,"max":%d,"lease_seconds":%d}`,
			k.id, k.jobType, min(k.batch, count-len(k.held)), k.leaseSeconds)
		status, reply, err := k.c.do("POST", "/poll", []byte(body))
		switch {
		case err != nil:
			k.t.failure(err)
			return
		case status == 204:
			return
		case status != 200:
			k.t.problem("status", status, reply)
			return
		}
		tasks, _, err := tasksOf(reply, nil)
		if err != nil {
			k.t.problem("malformed", status, reply)
			return
		}
		for _, t := range tasks {
			k.held = append(k.held, lease{string(t.id), string(t.token)}) // the reply is good until the next one only
		}
	}
}

// beat keeps every lease once, request by request. until: the moment at which all are to end; zero: as long as before.
// It reports whether it came to the end before over was closed.
func (k *keeper) beat(over <-chan struct{}, until time.Time) bool {
	for first := 0; first < len(k.held); first += k.batch {
		select {
		case <-over:
			return false
		default:
		}
		part := k.held[first:min(first+k.batch, len(k.held))]
		start := time.Now()
		length := ""
		if !until.IsZero() {
			if until.Sub(start) < time.Second {
				return false
			}
			length = fmt.Sprintf(`,"lease_seconds":%.3f`, until.Sub(start).Seconds())
		}
		k.body = fmt.Appendf(k.body[:0], `{"worker_id":"%s","leases":[`, k.id)
		for i, l := range part {
			if i > 0 {
				k.body = append(k.body, ',')
			}
			k.body = fmt.Appendf(k.body, `{"id":"%s","lease_token":"%s"%s}`, l.id, l.token, length)
		}
		status, reply, err := k.c.do("POST", "/heartbeats", append(k.body, "]}"...))
		if err != nil {
			k.t.failure(err)
			return false
		}
		k.t.statuses[status]++
		if status != 200 {
			k.t.problem("status", status, reply)
			return false
		}
		_, lost, err := tasksOf(reply, nil)
		if err != nil {
			k.t.problem("malformed", status, reply)
			return false
		}
		if lost > 0 {
			k.t.errors["lost"] += lost - 1
			k.t.problem("lost", status, reply)
		}
		k.t.requests++
		k.t.tasks += uint64(len(part)) - lost
		k.t.of("heartbeats").record(time.Since(start))
	}
	return true
}
