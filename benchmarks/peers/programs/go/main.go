// Peers drives the contenders that are measured from Go: asynq, and servers that are already running somewhere (lmstfy, ocypod, Faktory).
//
//	peers SYSTEM enqueue SECONDS WARMUP_SECONDS CONCURRENCY BATCH JOBS   as in ../load.py
//	peers SYSTEM send RATE SECONDS                                      as in ../load.py
//	peers SYSTEM worker                                                 until SIGTERM
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A caller enqueues. It belongs to one goroutine; enqueueMany is asked for only where the system has one.
type caller interface {
	enqueue(payload []byte) error
	enqueueMany(payloads [][]byte) error
}

// A system is one contender. open returns a caller with its own connection, or one that shares the client's pool where that is its way.
// work runs a worker that handles each job, until it fails or the process is ended.
type system struct {
	open func() (caller, error)
	work func(concurrency int, handle func(payload []byte)) error
}

var systems = map[string]system{
	"asynq":   {openAsynq, workAsynq},
	"lmstfy":  {openLmstfy, workLmstfy},
	"ocypod":  {openOcypod, workOcypod},
	"faktory": {openFaktory, workFaktory},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "peers: %v\n", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("usage: peers SYSTEM enqueue|send|worker [number ..]")
	}
	chosen, known := systems[words[0]]
	if !known {
		return fmt.Errorf("no system %q", words[0])
	}
	numbers := make([]float64, 5)
	for i, word := range words[2:] {
		number, err := strconv.ParseFloat(word, 64)
		if err != nil || i >= len(numbers) {
			return fmt.Errorf("unexpected argument %q", word)
		}
		numbers[i] = number
	}
	switch words[1] {
	case "enqueue":
		span := time.Duration(numbers[0] * float64(time.Second))
		warmup := time.Duration(numbers[1] * float64(time.Second))
		return enqueue(chosen, span, warmup, int(numbers[2]), int(numbers[3]), int64(numbers[4]))
	case "send":
		return send(chosen, numbers[0], numbers[1])
	case "worker":
		concurrency, err := strconv.Atoi(os.Getenv("PEER_CONCURRENCY"))
		if err != nil {
			return fmt.Errorf("PEER_CONCURRENCY: %w", err)
		}
		record, err := openRecord(os.Getenv("PEER_RECORD"))
		if err != nil {
			return err
		}
		return chosen.work(concurrency, record.handle)
	}
	return fmt.Errorf("no verb %q", words[1])
}

func enqueue(chosen system, span, warmup time.Duration, concurrency, batch int, jobs int64) error {
	callers := make([]caller, concurrency)
	for i := range callers {
		var err error
		if callers[i], err = chosen.open(); err != nil {
			return err
		}
	}
	warm := time.Now().Add(warmup)
	until := warm.Add(span)
	cpu := cpuSeconds()
	var asked, stored, counted atomic.Int64
	var mutex sync.Mutex
	var took []time.Duration
	var failure error
	var group sync.WaitGroup
	for _, each := range callers {
		group.Add(1)
		go func() {
			defer group.Done()
			var own []time.Duration
			var err error
			for err == nil && time.Now().Before(until) && (jobs == 0 || asked.Add(int64(batch)) <= jobs) {
				start := time.Now()
				if batch == 1 {
					err = each.enqueue(payload())
				} else {
					payloads := make([][]byte, batch)
					for i := range payloads {
						payloads[i] = payload()
					}
					err = each.enqueueMany(payloads)
				}
				end := time.Now()
				if err != nil {
					break
				}
				stored.Add(int64(batch))
				if !end.Before(warm) && !end.After(until) {
					counted.Add(int64(batch))
					own = append(own, end.Sub(start))
				}
			}
			mutex.Lock()
			defer mutex.Unlock()
			took = append(took, own...)
			if err != nil {
				failure = err
			}
		}()
	}
	group.Wait()
	if failure != nil {
		return failure
	}
	end := time.Now()
	if end.After(until) {
		end = until
	}
	report := map[string]float64{"stored": float64(stored.Load()), "cpu_seconds": cpuSeconds() - cpu}
	report["jobs_per_second"], report["call_p50_ms"], report["call_p99_ms"] = 0, 0, 0
	if seconds := end.Sub(warm).Seconds(); seconds > 0 {
		report["jobs_per_second"] = float64(counted.Load()) / seconds
	}
	if len(took) > 0 {
		slices.Sort(took)
		report["call_p50_ms"] = float64(took[len(took)/2].Microseconds()) / 1000
		report["call_p99_ms"] = float64(took[int(0.99*float64(len(took)-1))].Microseconds()) / 1000
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

// send starts one job at a time, each by a caller that is free, so that none waits for the reply to the one before.
func send(chosen system, rate, seconds float64) error {
	const lanes = 8
	due := make(chan struct{}, lanes)
	failed := make(chan error, lanes)
	for range lanes {
		each, err := chosen.open()
		if err != nil {
			return err
		}
		go func() {
			for range due {
				if err := each.enqueue(payload()); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	count := int(rate * seconds)
	begun := time.Now()
	for number := range count {
		time.Sleep(time.Until(begun.Add(time.Duration(float64(number) / rate * float64(time.Second)))))
		due <- struct{}{}
	}
	close(due)
	for range lanes {
		if err := <-failed; err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]int{"sent": count})
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}
