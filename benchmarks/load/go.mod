module tasks-gateway/benchmarks/load

go 1.23
