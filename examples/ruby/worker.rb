# A worker without an SDK: Ruby's standard library alone. Payload: {"path": "a file", "seconds": 0}.
require "digest"
require "json"
require "net/http"
require "securerandom"

GATEWAY = URI(ENV.fetch("GATEWAY_URL", "http://127.0.0.1:8080"))
WORKER = ENV.fetch("WORKER_ID") { "ruby-#{SecureRandom.hex(4)}" }
HEADERS = { "Content-Type" => "application/json" }
HEADERS["Authorization"] = "Bearer #{ENV["GATEWAY_TOKEN"]}" unless ENV["GATEWAY_TOKEN"].to_s.empty?

# The work. Its thread is killed when the task is no longer ours: put into an `ensure` what must be undone.
def file_process(payload)
  sleep payload.fetch("seconds", 0)
  data = File.binread(payload.fetch("path"))
  words = data.scan(/[^ \t\n\v\f\r]+/n).size
  { bytes: data.bytesize, lines: data.count("\n"), words: words, sha256: Digest::SHA256.hexdigest(data) }
end

# Sends a request. Returns status, directive and reply.
def call(method, path, body = nil, seconds: 35)
  options = { use_ssl: GATEWAY.scheme == "https", open_timeout: 5, read_timeout: seconds }
  Net::HTTP.start(GATEWAY.host, GATEWAY.port, options) do |http|
    reply = http.send_request(method, path, body && JSON.generate(body), HEADERS)
    warn "#{WORKER} #{path} #{reply.code} #{reply.body}" if reply.code >= "400"
    [reply.code.to_i, reply["X-Directive"], reply.code == "200" ? JSON.parse(reply.body) : {}]
  end
end

# Posts until it is answered, which is safe: reports carry their lease token, polls a poll_id.
def insist(path, body)
  0.step do |tries|
    sleep rand(0.5..1.0) * 0.1 * 2**[tries - 1, 7].min if tries > 0
    status, directive, reply = call("POST", path, body)
    return status, directive, reply if status < 500 && status != 429
  rescue StandardError => error
    warn "#{WORKER} #{path} #{error.message}"
  end
end

# Works on a task in a thread while this one keeps the lease.
def handle(task)
  path = "/tasks/#{task["id"]}"
  lease = { lease_token: task["lease_token"] }
  work = Thread.new { file_process(task["payload"]) }
  work.report_on_exception = false
  until work.join(task["heartbeat_seconds"])
    status, _, beat = insist("#{path}/heartbeat", lease)
    return if status >= 400 # lost: another may have the task by now, so report nothing
    return insist("#{path}/release", lease) if beat["cancel_requested"] || beat["directive"] == "stop"
  end
  status, = insist("#{path}/complete", lease.merge(result: work.value))
  warn "#{WORKER}: complete #{task["id"]}: #{status}"
rescue StandardError => error # what the work raised, `join` raises again
  parts = { type: error.class.name, message: error.message }
  retryable = error.is_a?(SystemCallError) && !error.is_a?(Errno::ENOENT)
  status, = insist("#{path}/fail", lease.merge(error: parts, retryable: retryable))
  warn "#{WORKER}: fail #{task["id"]}: #{status} #{error.message}"
ensure
  work.kill
end

warn "#{WORKER} polls #{GATEWAY} for file_process"
directive = "run"
begin
  while directive == "run"
    poll = { worker_id: WORKER, task_type: "file_process", wait: 25, poll_id: SecureRandom.hex }
    _, directive, reply = insist("/poll", poll)
    reply.fetch("tasks", []).each { |task| handle(task) }
  end
rescue SignalException => signal # SIGTERM or SIGINT, wherever the main thread is
  warn "#{WORKER} stops: #{signal.message}"
end
begin
  call("DELETE", "/workers/#{WORKER}", seconds: 3) # gives back what is in hand, too
rescue StandardError => error
  warn "#{WORKER} could not sign off: #{error.message}"
end
exit !directive.nil?
