#!/bin/bash
# A real S3 service on loopback: one Ceph monitor, one OSD, one radosgw; all their files are in one folder.
# Needs: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common
#
#   ceph_s3.sh start FOLDER PORT ACCESS_KEY SECRET_KEY   gateway on PORT, monitor on PORT+1; prints when it is ready
#   ceph_s3.sh stop  FOLDER                              stops the three by their process ids
#   ceph_s3.sh kill  FOLDER                              the same with SIGKILL; a new start keeps the data
set -eu
command=$1 folder=$2
export CEPH_CONF=$folder/ceph.conf
services="radosgw osd mon"

end() {  # SIGNAL
  for service in $services; do
    [ -e "$folder/$service.pid" ] || continue
    id=$(cat "$folder/$service.pid")
    kill "-$1" "$id" 2>/dev/null || true
    for _ in $(seq 200); do kill -0 "$id" 2>/dev/null || break; sleep .05; done
    kill -KILL "$id" 2>/dev/null || true
    rm -f "$folder/$service.pid"
  done
}

case $command in
  stop) end TERM; exit 0 ;;
  kill) end KILL; exit 0 ;;
  start) port=$3 access=$4 secret=$5 ;;
  *) echo "ceph_s3.sh: unknown command $command" >&2; exit 2 ;;
esac

configure() {
  mkdir -p "$folder/mon" "$folder/osd" "$folder/log" "$folder/run"
  fsid=$(cat /proc/sys/kernel/random/uuid)
  cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$((port + 1))/0
ms bind msgr1 = false
ms bind ipv4 = true
public network = 127.0.0.0/8
run dir = $folder/run
admin socket = $folder/run/\$name.\$pid.asok
log file = $folder/log/\$name.log
mon data = $folder/mon
osd data = $folder/osd
debug ms = 0

# Loopback only, so no authentication. Without crc mode the gateway cannot connect to the monitor.
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = true
ms mon client mode = crc

# One of everything.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 10000
osd crush chooseleaf type = 0

# A fresh start makes many small changes to the map, and by default each waits a second.
paxos propose interval = 0.02
paxos min wait = 0.01
osd mon report interval = 1
osd pg stat report interval max = 5

# A small machine's disk: the store is a sparse file.
mon data avail crit = 1
mon data avail warn = 2
osd objectstore = bluestore
bluestore block size = 10737418240
bluestore block create = true
osd memory target = 939524096

rgw dns name = localhost
rgw frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:$port
rgw run sync thread = false
rgw enable usage log = false
CONF
  monmaptool --create --clobber --fsid "$fsid" --addv a "v2:127.0.0.1:$((port + 1))/0" --enable-all-features \
    "$folder/monmap" >/dev/null
  ceph-mon -i a --mkfs --monmap "$folder/monmap" --setuser root --setgroup root >"$folder/mon-mkfs.out" 2>&1
  touch "$folder/fresh"
}

up() {  # SERVICE COMMAND...
  service=$1
  shift
  "$@" >"$folder/$service.out" 2>&1 </dev/null &
  echo $! >"$folder/$service.pid"
}

trap 'status=$?; [ $status = 0 ] || end KILL; exit $status' EXIT
[ -e "$CEPH_CONF" ] || configure
up mon ceph-mon -f -i a --setuser root --setgroup root
if [ -e "$folder/fresh" ]; then
  osd_id=$(cat /proc/sys/kernel/random/uuid)
  timeout 60 ceph osd new "$osd_id" >/dev/null 2>"$folder/osd-new.out"
  ceph-osd -i 0 --mkfs --osd-uuid "$osd_id" --setuser root --setgroup root >"$folder/osd-mkfs.out" 2>&1
fi
up osd ceph-osd -f -i 0 --setuser root --setgroup root
up radosgw radosgw -f -n client.rgw --setuser root --setgroup root
for _ in $(seq 1200); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  kill -0 "$(cat "$folder/radosgw.pid")" || { tail -n 5 "$folder"/radosgw.out "$folder"/log/*rgw* >&2; exit 1; }
  sleep .05
done
if [ -e "$folder/fresh" ]; then
  radosgw-admin user create --uid=test --display-name=test --access-key="$access" --secret="$secret" \
    >/dev/null 2>"$folder/user.out"
  rm "$folder/fresh"
fi
echo "ready on port $port"
