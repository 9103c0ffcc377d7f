package main

import (
	"flag"
	"fmt"
	"time"
)

// get reads one path over and over, in a closed loop on every connection. With -walk it goes through a list instead, page by page, and
// begins again at its end. The `tasks` of a reply are counted.
func get(arguments []string) (*report, error) {
	var flags common
	set := flag.NewFlagSet("get", flag.ExitOnError)
	path := set.String("path", "/tasks", "what to read, with its query")
	walk := set.Bool("walk", false, "follow next_cursor; -path needs a query for that")
	duration := set.Duration("duration", 5*time.Second, "how long to measure")
	warmup := set.Duration("warmup", 0, "how long to read before measuring")
	flags.parse(set, arguments)
	clients, err := openClients(flags.url, flags.connections, 1)
	if err != nil {
		return nil, err
	}
	span := newWindow(*warmup, *duration)
	tallies := each(clients, func(_ int, c *client, t *tally) {
		cursor := ""
		for start := time.Now(); start.Before(span.until); start = time.Now() {
			asked := *path
			if cursor != "" {
				asked = fmt.Sprintf("%s&cursor=%s", *path, cursor)
			}
			status, reply, err := c.do("GET", asked, nil)
			end := time.Now()
			cursor = ""
			if err != nil {
				t.failure(err)
				time.Sleep(5 * time.Millisecond)
				continue
			}
			if status != 200 {
				t.problem("status", status, reply)
				continue
			}
			tasks, next, err := pageOf(reply)
			if err != nil {
				t.problem("malformed", status, reply)
				continue
			}
			if *walk {
				cursor = next
			}
			if span.holds(end) {
				t.statuses[status]++
				t.requests++
				t.tasks += tasks
				t.of("request").record(end.Sub(start))
			}
		}
	})
	return sum("get", flags.connections, *duration, tallies), nil
}

// pageOf counts the entries of a reply's top-level `tasks`, and returns its `next_cursor`, empty for none.
func pageOf(reply []byte) (tasks uint64, next string, err error) {
	if len(reply) == 0 || reply[0] != '{' {
		return 0, "", nil // not every endpoint answers with an object
	}
	err = members(reply, func(name, value []byte) error {
		switch {
		case string(name) == "tasks" && len(value) > 0 && value[0] == '[':
			return elements(value, func([]byte) error {
				tasks++
				return nil
			})
		case string(name) == "next_cursor":
			next = string(unquote(value))
		}
		return nil
	})
	return tasks, next, err
}
