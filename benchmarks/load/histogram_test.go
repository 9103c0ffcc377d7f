package main

import (
	"testing"
	"time"
)

func TestEveryValueLiesInABucketAtMostOnePercentWide(t *testing.T) {
	for value := uint64(0); value < 1<<40; value = value*17/16 + 1 {
		edge := upperEdge(bucketOf(value))
		if edge < value || float64(edge-value) > float64(value)/128 {
			t.Fatalf("value %d is reported as %d", value, edge)
		}
	}
}

func TestBucketsFollowEachOther(t *testing.T) {
	for bucket := 0; bucket < 40<<precisionBits; bucket++ {
		if got := bucketOf(upperEdge(bucket)); got != bucket {
			t.Fatalf("the upper edge of bucket %d lies in bucket %d", bucket, got)
		}
		if got := bucketOf(upperEdge(bucket) + 1); got != bucket+1 {
			t.Fatalf("the value after bucket %d lies in bucket %d", bucket, got)
		}
	}
}

func TestPercentilesOfAKnownDistribution(t *testing.T) {
	var first, second, all histogram
	for i := 1; i <= 1000; i++ {
		if i%2 == 0 {
			first.record(time.Duration(i) * time.Millisecond)
		} else {
			second.record(time.Duration(i) * time.Millisecond)
		}
	}
	all.merge(&first)
	all.merge(&second)
	for share, want := range map[float64]float64{0.5: 500, 0.9: 900, 0.99: 990, 0.999: 999, 1: 1000} {
		got := milliseconds(all.percentile(share))
		if got < want || got > want*1.01 {
			t.Errorf("percentile %v is %v ms instead of %v", share, got, want)
		}
	}
	if all.least != time.Millisecond || all.most != time.Second || all.total != 1000 {
		t.Errorf("least %v, most %v, total %d", all.least, all.most, all.total)
	}
}
