package main

import (
	"bytes"
	"strconv"
)

// appendPayload appends a JSON object `{"n":<sequence>,"fill":"xx.."}` of exactly size bytes (or the shortest one, when size is too small).
func appendPayload(to []byte, sequence uint64, size int) []byte {
	start := len(to)
	to = append(to, `{"n":`...)
	to = strconv.AppendUint(to, sequence, 10)
	to = append(to, `,"fill":"`...)
	const closing = `"}`
	if missing := size - (len(to) - start) - len(closing); missing > 0 {
		to = append(to, bytes.Repeat([]byte{'x'}, missing)...)
	}
	return append(to, closing...)
}

// queueNames lists the job types that a run is spread over: the one given, or as many with -0, -1, .. behind it.
func queueNames(jobType string, queues int) []string {
	if queues <= 1 {
		return []string{jobType}
	}
	names := make([]string, queues)
	for i := range names {
		names[i] = jobType + "-" + strconv.Itoa(i)
	}
	return names
}

// appendTask appends the body of `POST /tasks` for one task.
func appendTask(to []byte, jobType string, sequence uint64, payloadBytes int) []byte {
	to = append(to, `{"job_type":"`...)
	to = append(to, jobType...)
	to = append(to, `","payload":`...)
	to = appendPayload(to, sequence, payloadBytes)
	return append(to, '}')
}
