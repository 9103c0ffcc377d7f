package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// pace sends on due the moments, counted from begin, at which the requests of a steady rate are to start, until span is over; then it
// closes due. Moments are never left out: when the machine was late, the missed ones follow at once with their own times, so that a
// latency counted from them holds the time that a request had to wait for its turn (no coordinated omission). It ends early when stop is
// closed, which may be nil.
//
// It reads a Linux timer descriptor, since Go's own timers fire up to a millisecond late.
func pace(begin time.Time, rate float64, span time.Duration, due chan<- time.Duration, stop <-chan struct{}) error {
	defer close(due)
	interval := time.Duration(float64(time.Second) / rate)
	if interval <= 0 {
		return fmt.Errorf("-rate %v is too high", rate)
	}
	// Read before the timer starts: an expiration must never come before its moment, which then waited for the next one.
	next := time.Since(begin) + interval
	timer, err := openTimer(max(interval, 200*time.Microsecond))
	if err != nil {
		return err
	}
	defer timer.Close()
	var expirations [8]byte
	for next < span {
		select {
		case <-stop:
			return nil
		default:
		}
		if _, err := timer.Read(expirations[:]); err != nil {
			return fmt.Errorf("timer: %w", err)
		}
		for now := time.Since(begin); next <= now && next < span; next += interval {
			due <- next
		}
	}
	return nil
}

// openTimer returns a descriptor that becomes readable every interval.
func openTimer(interval time.Duration) (*os.File, error) {
	const clockMonotonic = 1
	descriptor, _, failure := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if failure != 0 {
		return nil, fmt.Errorf("timerfd_create: %w", failure)
	}
	period := syscall.NsecToTimespec(int64(interval))
	setting := [2]syscall.Timespec{period, period}
	_, _, failure = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, descriptor, 0, uintptr(unsafe.Pointer(&setting)), 0, 0, 0)
	if failure != 0 {
		_ = syscall.Close(int(descriptor))
		return nil, fmt.Errorf("timerfd_settime: %w", failure)
	}
	return os.NewFile(descriptor, "timer"), nil
}
