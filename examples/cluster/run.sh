#!/usr/bin/env bash
# Three Kafka brokers and three nodes of profiled on this machine. It posts a batch at one node, reads it at another, kills a broker and
# a node, goes on writing, and starts the node again. At the end, and when it is interrupted, it ends all that it started.
#
#   cargo build --release --features cluster
#   PROFILED=target/release/profiled bash examples/cluster/run.sh
#
# It needs Java 17 or later, Maven, curl and about 2 GB of memory. It takes the ports 19092 to 19097 and 8751 to 8753, and a temporary
# folder. With STAY=1 it leaves everything running until you press Enter. On one machine this shows how a cluster behaves, not how
# fast one is.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
profiled=${PROFILED:-profiled}
jars=${PROFILED_KAFKA_JARS:-$here/../../target/example-kafka}
folder=$(mktemp -d)
order=kafka://127.0.0.1:19092,127.0.0.1:19093,127.0.0.1:19094/example
declare -A processes

say() { printf '\n%s\n' "$*"; }
run() { printf '$ profiled %s\n' "$*"; "$profiled" "$@"; }
fail() { echo "run.sh: $*" >&2; exit 1; }

# Ends only what this script started.
end() {
  trap - EXIT INT TERM
  for process in "${processes[@]}"; do kill -CONT "$process" 2>/dev/null || true; kill "$process" 2>/dev/null || true; done
  for process in "${processes[@]}"; do wait "$process" 2>/dev/null || true; done
  rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM

# Waits until a command succeeds.
wait_for() {
  local what=$1 tries=0
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || fail "$what did not come within 60 s; see the files of $folder"
    sleep 0.1
  done
}

broker() {
  local id=$1
  # At most 512 MiB each, and compiled quickly rather than well. Brokers that serve a site have 1 GiB or more.
  java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dlog4j2.configurationFile=$folder/log4j2.properties" \
    -cp "$jars/*" kafka.Kafka "$folder/broker-$id.properties" >"$folder/broker-$id.log" 2>&1 &
  processes[broker-$id]=$!
}

node() {
  local name=$1 port=$2
  "$profiled" serve --order "$order" --node "$name" --listen "127.0.0.1:$port" --data "$folder/node-$name" \
    >>"$folder/node-$name.log" 2>&1 &
  processes[node-$name]=$!
}

# As a crash: no process can do anything about it.
kill9() {
  kill -9 "${processes[$1]}"
  wait "${processes[$1]}" 2>/dev/null || true
  unset "processes[$1]"
}

is_ready() { curl -fsS "http://127.0.0.1:$1/readyz"; }
started() { grep -q 'Kafka Server started' "$folder/broker-$1.log"; }

for tool in java mvn curl "$profiled"; do
  command -v "$tool" >/dev/null || fail "$tool is not here"
done

if [ ! -f "$jars/complete" ]; then
  say "Maven brings Kafka"
  mvn -q -B --color=never -f "$here/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$jars"
  touch "$jars/complete"
fi

say "Three brokers start"
cat >"$folder/log4j2.properties" <<'LOG4J'
status = error
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = OUT
LOG4J
for id in 0 1 2; do
  cat >"$folder/broker-$id.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$id
controller.quorum.voters=0@127.0.0.1:19095,1@127.0.0.1:19096,2@127.0.0.1:19097
listeners=PLAINTEXT://127.0.0.1:$((19092 + id)),CONTROLLER://127.0.0.1:$((19095 + id))
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$folder/broker-$id
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
PROPERTIES
  java -Xmx64m "-Dlog4j2.configurationFile=$folder/log4j2.properties" -cp "$jars/*" kafka.tools.StorageTool format \
    -t cHJvZmlsZWQtZXhhbXBsZQ -c "$folder/broker-$id.properties" >"$folder/format-$id.log" 2>&1
  broker "$id"
done
for id in 0 1 2; do wait_for "broker $id" started "$id"; done

say "Three nodes start with empty folders. The first one makes the topics and founds the order"
node a 8751
wait_for "node a" is_ready 8751
node b 8752
node c 8753
wait_for "node b" is_ready 8752
wait_for "node c" is_ready 8753
# Every node reports every two seconds.
wait_for "all reports" bash -c "$profiled cluster status --url http://127.0.0.1:8752 --json | grep -c serving | grep -qx 3"
run cluster status --url http://127.0.0.1:8752

say "200 site calls at node c create as many visitors"
curl -fsS "http://127.0.0.1:8753/m2/demo/mbox/json?mbox=home&mboxSession=s1&mbox3rdPartyId=crm-[1-200]" -o "$folder/mbox-#1.json"

say "A batch of 200 rows goes to node a"
{ echo "batch=thirdPartyId,tier,points"; for n in $(seq 200); do echo "crm-$n,silver,$n"; done; } >"$folder/batch.txt"
run batch post "$folder/batch.txt" --client demo --url http://127.0.0.1:8751 --wait

say "It is read at node b"
run profile get crm-7 --client demo --url http://127.0.0.1:8752

say "Broker 1 and node c are killed. A call at node a, while they are gone, and how long it took"
kill9 broker-1
kill9 node-c
call='mbox=home&mboxSession=s1&mbox3rdPartyId=crm-7&profile.tier=gold'
curl -fsS -o /dev/null -D "$folder/head" -w '%{http_code} in %{time_total} s\n' "http://127.0.0.1:8751/m2/demo/mbox/json?$call"
seq=$(tr -d '\r' <"$folder/head" | sed -n 's/^profiled-seq: //ip')
echo "profiled-seq: $seq"

say "Node b waits until it is there, and shows it"
curl -fsS "http://127.0.0.1:8752/api/v1/profiles/crm-7?client=demo&wait_for_seq=$seq" | grep -o '"tier":{"value":"[a-z]*"'

say "What node b knows now"
away() { "$profiled" cluster status --url http://127.0.0.1:8752 | grep -q ' away '; }
wait_for "node c to be missed" away
run cluster status --url http://127.0.0.1:8752

say "Node c starts again, and reads what it has missed"
node c 8753
wait_for "node c" is_ready 8753
curl -fsS "http://127.0.0.1:8753/api/v1/profiles/crm-7?client=demo&wait_for_seq=$seq" | grep -o '"tier":{"value":"[a-z]*"'
level() { "$profiled" cluster status --url http://127.0.0.1:8753 --json | grep -c '"state": "serving"' | grep -qx 3; }
wait_for "all reports" level
run cluster status --url http://127.0.0.1:8753

if [ -n "${STAY:-}" ]; then
  say "The nodes stay up: http://127.0.0.1:8751/cluster shows them. Press Enter to end everything"
  read -r
fi
say "Everything that was started is ended"
