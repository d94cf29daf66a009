"""The images that only tests run: services as they are packed for Docker, made of Debian's packages like the demo's.

None of them was made for zones. Each leans on something that Docker gives a container without being asked.
"""

from __future__ import annotations

from ringfence_demo.definitions import BASE, PATH, Definition

_POSTGRES = 999
_NODE = 1000

_ENTRYPOINT = """\
#!/bin/sh
# Like that of the official image: as root give the data to postgres, become it, and make a database if there is none.
set -e
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec gosu postgres "$0" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" |
        initdb --username=postgres --auth-local=trust --auth-host=scram-sha-256 --locale=C.UTF-8 --pwfile=/dev/stdin
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
fi
exec "$@"
"""

_SERVER = """\
const fs = require('fs');
const http = require('http');
fs.appendFileSync('/dev/stdout', 'node: standard output opened by name\\n');
http.createServer((request, response) => {
    console.log(request.method, request.url);
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({
        user: [process.getuid(), process.getgid(), process.getgroups().sort((a, b) => a - b)],
        directory: process.cwd(),
        umask: process.umask(),
        environment: Object.fromEntries(['HOME', 'HOSTNAME', 'NODE_ENV', 'PATH', 'TERM'].map((name) => [name, process.env[name]])),
    }));
}).listen(80, () => console.log('node: listening'));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
"""

_INITTAB = """\
::sysinit:/etc/init.d/rcS
::respawn:/usr/sbin/httpd -f -p 80 -h /var/www
::respawn:/usr/sbin/crond -f -c /var/spool/cron/crontabs
::shutdown:/bin/umount -a -r
"""

_RCS = """\
#!/bin/sh
# As such scripts were: root everywhere, /var written to, /proc looked at, daemons sent into the background.
mount -t proc proc /proc 2>/dev/null
hostname -F /etc/hostname 2>/dev/null
mkdir -p /var/run /var/log /var/lock /var/www
: >/var/run/utmp
syslogd -O /var/log/messages
logger -t rcS "started on $(uname -r) with $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
df / >/tmp/df
echo "page of legacy" >/var/www/index.html
for script in /etc/rc3.d/S*; do
    [ -x "$script" ] && "$script" start
done
"""

_COUNTER = """\
#!/bin/sh
# S90counter: a daemon with a process id file, as start-stop-daemon wants it.
case $1 in
start) start-stop-daemon -S -b -m -p /var/run/counter.pid -x /usr/sbin/counter ;;
stop) start-stop-daemon -K -p /var/run/counter.pid ;;
esac
"""

_COUNT = """\
#!/bin/sh
while :; do
    date >>/var/log/counter
    sleep 5
done
"""

_BUSYBOX = "init httpd crond syslogd logger start-stop-daemon".split()

DEFINITIONS = (
    # As the official image: an entrypoint that drops root, a volume, a stop signal of its own, a health check in a shell's words.
    Definition(
        name="postgres",
        packages=(*BASE, "gosu", "postgresql-17"),
        # The just-in-time compiler and Debian's tools around clusters, two thirds of all; the server runs without.
        left_out=r"usr/(bin|sbin|share)/(pg_|perl|postgresql-common|ucf|locale-gen)|usr/lib/[^/]+/(libLLVM|libz3|libperl|perl)"
        r"|usr/lib/postgresql/17/lib/(bitcode|llvmjit)|usr/share/(perl|i18n|postgresql-common)",
        accounts=(f"postgres:x:{_POSTGRES}:{_POSTGRES}::/var/lib/postgresql:/bin/sh",),
        files={"usr/local/bin/docker-entrypoint.sh": _ENTRYPOINT},
        directories={
            "var/lib/postgresql/data": (0o1777, _POSTGRES, _POSTGRES),
            "run/postgresql": (0o3777, _POSTGRES, _POSTGRES),
        },
        config={
            "Env": [f"{PATH}:/usr/lib/postgresql/17/bin", "LANG=C.UTF-8", "PGDATA=/var/lib/postgresql/data"],
            "Entrypoint": ["docker-entrypoint.sh"],
            "Cmd": ["postgres"],
            "ExposedPorts": {"5432/tcp": {}},
            "Volumes": {"/var/lib/postgresql/data": {}},
            "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD-SHELL", "pg_isready -U postgres"], "Interval": 10 * 10**9},
        },
    ),
    # A user by name with a supplementary group, on a port below 1024, who opens /dev/stdout.
    Definition(
        name="node",
        packages=(*BASE, "nodejs"),
        accounts=(f"node:x:{_NODE}:{_NODE}::/home/node:/bin/sh",),
        members={"audio": ("node",)},
        files={"srv/app/server.js": _SERVER},
        directories={"home/node": (0o755, _NODE, _NODE)},
        config={
            "Env": [PATH, "NODE_ENV=production"],
            "User": "node",
            "WorkingDir": "/srv/app",
            "Cmd": ["node", "server.js"],
            "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {
                "Test": ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"],
                "StartPeriod": 180 * 10**9,
                "StartInterval": 2 * 10**9,
            },
        },
    ),
    # A user by number that the image does not know, and a working directory that it does not have.
    Definition(
        name="java",
        packages=(*BASE, "libh2-java", "openjdk-21-jre-headless"),
        directories={"data": (0o770, 1001, 0)},
        config={
            "Env": [f"{PATH}:/usr/lib/jvm/java-21-openjdk-amd64/bin"],
            "User": "1001",
            "WorkingDir": "/opt/h2",
            "Entrypoint": ["java", "-cp", "/usr/share/java/h2.jar", "org.h2.tools.Server"],
            "Cmd": ["-web", "-webAllowOthers", "-baseDir", "/data"],
            "ExposedPorts": {"8082/tcp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "15",
        },
    ),
    # Fifteen years ago: an init with a table, scripts, root, one static program, and no libc. Mount points are what it never had to make.
    Definition(
        name="legacy",
        packages=BASE,
        left_out=r"(?!(bin|sbin|usr|usr/bin|usr/sbin|usr/bin/busybox|etc|var)$)",
        links={
            **{f"usr/sbin/{name}": "../bin/busybox" for name in _BUSYBOX},
            "etc/rc3.d/S90counter": "../init.d/counter",
        },
        files={
            "etc/inittab": _INITTAB,
            "etc/init.d/rcS": _RCS,
            "etc/init.d/counter": _COUNTER,
            "usr/sbin/counter": _COUNT,
            "var/spool/cron/crontabs/root": "* * * * * date >>/tmp/cron\n",
        },
        directories={"etc/rc3.d": (0o755, 0, 0)},
        config={"Cmd": ["/sbin/init"]},
    ),
)
