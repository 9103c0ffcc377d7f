package main

import (
	"math/bits"
	"time"
)

// A histogram counts durations in buckets that are at most 1/128 of their value wide, from 1 ns to hours: percentiles read from it are
// right to 0.8 %, and recording costs a few instructions and no memory. It belongs to one goroutine; merge adds them up at the end.
type histogram struct {
	counts [bucketCount]uint64
	total  uint64
	sum    time.Duration
	least  time.Duration
	most   time.Duration
}

const (
	precisionBits = 7
	bucketCount   = (64 - precisionBits) << precisionBits
)

func (h *histogram) record(value time.Duration) {
	if value < 0 {
		value = 0
	}
	h.counts[bucketOf(uint64(value))]++
	if h.total == 0 || value < h.least {
		h.least = value
	}
	h.most = max(h.most, value)
	h.total++
	h.sum += value
}

func (h *histogram) merge(other *histogram) {
	if other.total == 0 {
		return
	}
	for i, count := range other.counts {
		h.counts[i] += count
	}
	if h.total == 0 || other.least < h.least {
		h.least = other.least
	}
	h.most = max(h.most, other.most)
	h.total += other.total
	h.sum += other.sum
}

// percentile returns the value that the given share (0..1) of the records does not exceed: the upper edge of its bucket, at most the maximum.
func (h *histogram) percentile(share float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(share*float64(h.total) + 0.999999)
	rank = min(max(rank, 1), h.total)
	var seen uint64
	for i, count := range h.counts {
		seen += count
		if seen >= rank {
			return min(time.Duration(upperEdge(i)), h.most)
		}
	}
	return h.most
}

func bucketOf(value uint64) int {
	if value < 1<<precisionBits {
		return int(value)
	}
	shift := bits.Len64(value) - precisionBits - 1
	return (shift << precisionBits) + int(value>>shift)
}

func upperEdge(bucket int) uint64 {
	if bucket < 2<<precisionBits {
		return uint64(bucket)
	}
	shift := (bucket >> precisionBits) - 1
	mantissa := uint64(bucket&(1<<precisionBits-1)) | 1<<precisionBits
	return (mantissa+1)<<shift - 1
}

// A summary is a histogram in milliseconds, as it is printed.
type summary struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean"`
	Min   float64 `json:"min"`
	P25   float64 `json:"p25"`
	P50   float64 `json:"p50"`
	P75   float64 `json:"p75"`
	P90   float64 `json:"p90"`
	P95   float64 `json:"p95"`
	P98   float64 `json:"p98"`
	P99   float64 `json:"p99"`
	P995  float64 `json:"p99.5"`
	P998  float64 `json:"p99.8"`
	P999  float64 `json:"p99.9"`
	Max   float64 `json:"max"`
}

func (h *histogram) summary() summary {
	if h.total == 0 {
		return summary{}
	}
	return summary{
		Count: h.total,
		Mean:  milliseconds(h.sum / time.Duration(h.total)),
		Min:   milliseconds(h.least),
		P25:   milliseconds(h.percentile(0.25)),
		P50:   milliseconds(h.percentile(0.50)),
		P75:   milliseconds(h.percentile(0.75)),
		P90:   milliseconds(h.percentile(0.90)),
		P95:   milliseconds(h.percentile(0.95)),
		P98:   milliseconds(h.percentile(0.98)),
		P99:   milliseconds(h.percentile(0.99)),
		P995:  milliseconds(h.percentile(0.995)),
		P998:  milliseconds(h.percentile(0.998)),
		P999:  milliseconds(h.percentile(0.999)),
		Max:   milliseconds(h.most),
	}
}

func milliseconds(value time.Duration) float64 {
	return float64(value.Microseconds()) / 1000
}
