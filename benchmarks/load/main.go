// Load makes and measures HTTP load on a task gateway: it posts tasks, works them off, times their dispatch,
// holds polls open, reads, and keeps leases alive.
//
// Each run prints one JSON object on stdout (see report.go) and exits 0, also when requests failed: those are counted in it.
// It exits 2 on a wrong flag and 1 when the server cannot be reached at all.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

var commands = map[string]func(arguments []string) (*report, error){
	"post":    post,
	"work":    work,
	"latency": latency,
	"hold":    hold,
	"get":     get,
	"leases":  leases,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: load post|work|latency|hold|get|leases [flags]; `load post -h` lists a command's flags")
		os.Exit(2)
	}
	// Few objects outlive a request here: collecting seldom leaves the cores to what is measured.
	debug.SetGCPercent(800)
	result, err := commands[os.Args[1]](os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "load %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	if err := result.print(os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "load %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// common holds the flags that every command takes.
type common struct {
	url          string
	jobType      string
	connections  int
	payloadBytes int
	processors   int
	token        string
}

// parse declares the common flags on set, reads arguments and settles how many processors the client may use.
func (c *common) parse(set *flag.FlagSet, arguments []string) {
	set.StringVar(&c.url, "url", "http://127.0.0.1:8080", "the gateway: http://host:port")
	set.StringVar(&c.jobType, "job-type", "bench", "the queue")
	set.IntVar(&c.connections, "connections", 64, "keep-alive connections, one request under way on each")
	set.IntVar(&c.payloadBytes, "payload-bytes", 100, "length of each task's payload as JSON text, at least 32")
	set.IntVar(&c.processors, "processors", 1, "GOMAXPROCS: with one, the client does not spin on a core that the server needs")
	set.StringVar(&c.token, "token", "", "bearer token, where the gateway asks for one")
	_ = set.Parse(arguments) // ExitOnError: Parse does not return one
	runtime.GOMAXPROCS(c.processors)
	if c.token != "" {
		authorization = "\r\nAuthorization: Bearer " + c.token
	}
}
