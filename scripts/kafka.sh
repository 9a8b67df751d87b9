#!/usr/bin/env bash
# `make kafka` and `make kafka-stop`: a real Apache Kafka, one node, for people without Docker.
#
#     kafka.sh start    fetch it if need be, start it, and return when it answers
#     kafka.sh stop     stop it; its data stays
#
# It listens on 127.0.0.1 only, on KAFKA_PORT (its controller on the port after that), and keeps its
# data, its log and its pid under KAFKA_DATA. KAFKA_OPTIONS are further lines for its configuration.
set -euo pipefail
cd "$(dirname "$0")/.."

KAFKA_PORT=${KAFKA_PORT:-9092}
KAFKA_DATA=${KAFKA_DATA:-data/kafka}
POM=scripts/kafka-pom.xml
VERSION=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$POM")
LIBRARIES=data/kafka-$VERSION  # shared by all brokers; only Maven writes there
PID_FILE=$KAFKA_DATA/broker.pid
LOG=$KAFKA_DATA/broker.log
CONFIG=$KAFKA_DATA/server.properties

fail() {
    echo "$*" >&2
    exit 1
}

command_of() {
    if [[ -d /proc/self ]]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -o command= -p "$1"; fi
}

running() {  # whether process $1 is the broker of this data folder
    [[ -n $1 && $(command_of "$1" 2>/dev/null) == *" kafka.Kafka $CONFIG"* ]]
}

pid() {
    cat "$PID_FILE" 2>/dev/null || true
}

listening() {
    (exec 3<>"/dev/tcp/127.0.0.1/$KAFKA_PORT") 2>/dev/null
}

java_is_new_enough() {
    local version
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    [[ -n $version ]] && ((version >= 17))
}

fetch() {
    [[ -f $LIBRARIES/.complete ]] && return
    command -v mvn >/dev/null ||
        fail "Maven (mvn) is needed to fetch Apache Kafka; on Debian: apt install maven"
    echo "Fetching Apache Kafka $VERSION …"
    mkdir -p "$LIBRARIES"
    mvn --quiet --batch-mode --file "$POM" dependency:copy-dependencies \
        -DoutputDirectory="$PWD/$LIBRARIES" || fail "Maven could not fetch Apache Kafka."
    touch "$LIBRARIES/.complete"
}

configure() {
    mkdir -p "$KAFKA_DATA"
    cat >"$CONFIG" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((KAFKA_PORT + 1))
listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$((KAFKA_PORT + 1))
controller.listener.names=CONTROLLER
log.dirs=$KAFKA_DATA/log
num.partitions=3
# One node: its own topics can have one copy only.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# A group of one needn't wait for others to join.
group.initial.rebalance.delay.ms=0
# A member that was killed need not hold up the others for the usual 6 seconds.
group.min.session.timeout.ms=1000
message.max.bytes=16777216
${KAFKA_OPTIONS:-}
PROPERTIES
    if [[ ! -f $KAFKA_DATA/log/meta.properties ]]; then
        java -cp "$LIBRARIES/*" kafka.tools.StorageTool format --config "$CONFIG" \
            --cluster-id Y2luZW1hLWFuYWx5dGljcw >"$LOG" 2>&1 ||
            fail "Kafka's data folder can't be made; see $LOG"
    fi
}

start() {
    if running "$(pid)"; then
        echo "Kafka runs already (process $(pid)) on 127.0.0.1:$KAFKA_PORT."
        return
    fi
    java_is_new_enough ||
        fail "Java 17 or newer is needed to run Apache Kafka; on Debian: apt install default-jre-headless"
    listening && fail "127.0.0.1:$KAFKA_PORT is taken by something else; choose another KAFKA_PORT"
    fetch
    configure
    nohup java -Xms256m -Xmx512m -XX:+UseSerialGC \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
        -Dorg.slf4j.simpleLogger.showDateTime=true \
        -cp "$LIBRARIES/*" kafka.Kafka "$CONFIG" </dev/null >>"$LOG" 2>&1 &
    echo $! >"$PID_FILE"
    local deadline=$((SECONDS + 60))
    until listening; do
        if [[ -z $(jobs -pr) ]]; then
            rm -f "$PID_FILE"
            tail -n 20 "$LOG" >&2
            fail "Kafka ended by itself; the end of its log, $LOG, is above."
        fi
        ((SECONDS < deadline)) || fail "Kafka doesn't answer after a minute; see $LOG"
        sleep 0.1
    done
    echo "Kafka $VERSION answers on 127.0.0.1:$KAFKA_PORT. To stop it: make kafka-stop"
}

stop() {
    local process
    process=$(pid)
    if ! running "$process"; then
        rm -f "$PID_FILE"
        echo "Nothing to stop: no Kafka of make kafka runs."
        return
    fi
    kill -TERM "$process"
    local deadline=$((SECONDS + 30))
    while running "$process"; do
        ((SECONDS < deadline)) || fail "Kafka hasn't stopped within 30 seconds. To end it at once: kill -9 $process"
        sleep 0.1
    done
    rm -f "$PID_FILE"
    echo "Kafka has stopped; its data stays in $KAFKA_DATA."
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) fail "usage: kafka.sh start|stop" ;;
esac
