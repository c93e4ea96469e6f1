#!/bin/sh
# Starts Redis or Sentinel in a container, on port $PORT: start.sh FILE [OPTION...]
# Sentinel rewrites the file that a server runs on, so each runs on a copy in the working directory, its volume;
# a shipped file that has changed since replaces the copy.
set -eu
umask 077
shipped=$1
shift
copy=$PWD/$(basename "$shipped")
if ! cmp -s "$shipped" "$copy.shipped"; then
    cp "$shipped" "$copy"
    cp "$shipped" "$copy.shipped"
fi
# What was rewritten holds the passwords of that day; those of today come with --include.
sed -i -e '/^user default /d' -e '/^requirepass /d' -e '/^masterauth /d' -e '/^sentinel auth-pass /d' "$copy"
exec redis-server "$copy" --port "$PORT" "$@"
