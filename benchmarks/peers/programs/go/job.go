package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	payloadBytes = 100
	stampDigits  = 20
)

// now is the machine's one monotonic clock in ns, the same in every process: Go's own time does not show it.
func now() int64 {
	var moment unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &moment); err != nil {
		panic(err)
	}
	return moment.Nano()
}

// payload returns 100 characters that begin with the moment at which they were made.
func payload() []byte {
	text := fmt.Appendf(make([]byte, 0, payloadBytes), "%0*d", stampDigits, now())
	return append(text, bytes.Repeat([]byte{'x'}, payloadBytes-stampDigits)...)
}

// A record is PEER_RECORD: 16 bytes for each job that ran, when it was made and when it came.
type record struct{ file *os.File }

func openRecord(path string) (*record, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	return &record{file}, err
}

// handle is the job: it does nothing but note that it ran.
func (r *record) handle(text []byte) {
	made, err := strconv.ParseInt(string(text[:stampDigits]), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("foreign job %q", text))
	}
	var entry [16]byte
	binary.LittleEndian.PutUint64(entry[:], uint64(made))
	binary.LittleEndian.PutUint64(entry[8:], uint64(now()))
	if _, err := r.file.Write(entry[:]); err != nil {
		panic(err)
	}
}
