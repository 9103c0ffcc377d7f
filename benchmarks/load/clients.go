package main

import (
	"fmt"
	"sync"
	"time"
)

// replyTimeout is how long a request may go without its reply. It is above the longest wait that the protocol allows (55 s).
const replyTimeout = 75 * time.Second

// openClients connects count clients to the server, so that no run measures connecting. sources spreads them over the local addresses
// 127.0.0.1, 127.0.0.2, ..: each has its own ports, of which one address has some 28,000.
func openClients(url string, count int, sources int) ([]*client, error) {
	clients := make([]*client, count)
	for i := range clients {
		source := ""
		if sources > 1 {
			source = fmt.Sprintf("127.0.0.%d", 1+i%sources)
		}
		c, err := newClient(url, source, replyTimeout)
		if err != nil {
			return nil, err
		}
		clients[i] = c
	}
	const atOnce = 32
	var group sync.WaitGroup
	failures := make(chan error, atOnce)
	for lane := range atOnce {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := lane; i < count; i += atOnce {
				if err := connectPatiently(clients[i]); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	group.Wait()
	select {
	case err := <-failures:
		return nil, err
	default:
		return clients, nil
	}
}

// connectPatiently tries again for a while: a listening socket's backlog may be full when thousands come at once.
func connectPatiently(c *client) error {
	var err error
	for try := range 20 {
		if err = c.connect(); err == nil {
			return nil
		}
		time.Sleep(time.Duration(try+1) * 20 * time.Millisecond)
	}
	return err
}

// each runs act once for every client, each in a goroutine with its own tally, and returns the tallies when all have ended.
func each(clients []*client, act func(index int, c *client, t *tally)) []*tally {
	tallies := make([]*tally, len(clients))
	var group sync.WaitGroup
	for i, c := range clients {
		tallies[i] = newTally()
		group.Add(1)
		go func() {
			defer group.Done()
			act(i, c, tallies[i])
		}()
	}
	group.Wait()
	return tallies
}

// A window is the span of a run that counts: what ends before `from` warms up, what ends after `until` came too late.
type window struct {
	from  time.Time
	until time.Time
}

func newWindow(warmup, duration time.Duration) window {
	from := time.Now().Add(warmup)
	return window{from: from, until: from.Add(duration)}
}

// holds tells whether something that ended at that moment is counted.
func (w window) holds(moment time.Time) bool {
	return !moment.Before(w.from) && !moment.After(w.until)
}
