# The keeper of one private PostgreSQL cluster: makes it, starts and stops it as it is told, and removes it.
#
# usage: KEEPER=THIS_TEXT sh -c 'eval "$KEEPER"' NAME BIN PRIMARY CONFIG BASE...
#   BIN     folder of initdb and pg_ctl
#   PRIMARY port of the cluster on 127.0.0.1 that this one is to be a standby of; empty for a cluster of its own
#   CONFIG  lines for postgresql.conf
#   BASE    folders in which the cluster's own folder may be made; the first that works is taken
#
# Its first line on standard output is the folder. Then it obeys one command a line from standard input and answers each
# with "ok" or "failed": `start PORT`, `restart` (immediate, as in a crash), `stop` (likewise), `murder` (SIGKILL to every process at
# once, none of which gets to say goodbye), `promote` (a standby becomes a primary; returns when it takes writes).
#
# Standard input is a pipe that only the test process holds open. The kernel closes it however that process ends (return,
# panic, exit, kill -9), and that end of file is the signal to stop the cluster and remove the folder. Commands run one after
# the other here, so that an end that comes in the middle of a start is seen as soon as the start is through.
set -u
trap '' HUP INT TERM PIPE # Ctrl-C is meant for the tests; their end is what ends the keeper

unset KEEPER # the variable in which this script came
bin=$1 primary=$2 config=$3
shift 3

folder=
for base in "$@"; do
  folder=$(mktemp -d -p "$base" 2>/dev/null) && break
done
[ -n "$folder" ] || {
  echo "failed"
  exit 1
}
cd "$folder" || exit 1
export HOME="$folder"
exec 2>>keeper.log

make() {
  if [ -n "$primary" ]; then
    "$bin/pg_basebackup" --pgdata=data --host=127.0.0.1 --port="$primary" --username=postgres --no-password \
      --write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync || return
  else
    set -- --pgdata=data --username=postgres --auth=trust --encoding=UTF8 --no-sync
    "$bin/initdb" "$@" --locale=C.UTF-8 || { rm -rf data && "$bin/initdb" "$@" --locale=C; } || return
  fi
  printf '%s\n' "$config" >>data/postgresql.conf
}

starts=0
start() {
  # Each start has a log of its own, so that its failure can be told from an earlier one.
  [ ! -e server.log ] || mv server.log "server.log.$starts"
  starts=$((starts + 1))
  [ -e data/PG_VERSION ] || make || return
  "$bin/pg_ctl" start --pgdata=data --wait --timeout=120 --log=server.log --options="-p $1"
}

restart() {
  "$bin/pg_ctl" restart --pgdata=data --mode=immediate --wait --timeout=120 --log=server.log
}

stop() {
  [ ! -e data/postmaster.pid ] || "$bin/pg_ctl" stop --pgdata=data --mode=immediate --wait --timeout=120
}

# Whether a process is there and not just waiting for its parent to take note of its end.
lives() {
  case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) in
  '' | Z* | X*) return 1 ;;
  esac
}

murder() {
  read -r postmaster <data/postmaster.pid || return
  # Its children first stopped, then all killed: none of them notices the death of another.
  victims="$postmaster $(cat "/proc/$postmaster/task/$postmaster/children")" || return
  # shellcheck disable=SC2086 # a list of numbers
  kill -STOP $victims
  # shellcheck disable=SC2086
  kill -KILL $victims
  for victim in $victims; do
    while lives "$victim"; do sleep 0.02; done
  done
  # Nothing of it is left that this file would protect, and its number may soon be another's.
  rm -f data/postmaster.pid
}

promote() {
  "$bin/pg_ctl" promote --pgdata=data --wait --timeout=120
}

echo "$folder"
while read -r word port; do
  case $word in
  start | restart | stop | murder | promote) if "$word" "$port" </dev/null >>keeper.log 2>&1; then echo ok; else echo failed; fi ;;
  *) echo failed ;;
  esac
done

stop </dev/null >>keeper.log 2>&1
cd /
rm -rf "$folder"
