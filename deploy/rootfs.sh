#!/bin/sh
# Collects what the program needs at run time: FOLDER/root with itself, its shared libraries, certificates and one
# user; FOLDER/data, the empty data directory, apart because the image gives it to that user.
#   deploy/rootfs.sh PROGRAM FOLDER
set -eu
program=$1
rm -rf "$2"
mkdir -p "$2/data"
touch "$2/data/.keep"
folder=$2/root
mkdir -p "$folder/usr/bin" "$folder/etc/ssl/certs"
cp "$program" "$folder/usr/bin/fanfare"
strip --strip-debug "$folder/usr/bin/fanfare"
# The loader and the libraries, at the paths where the program looks for them; name look-ups load two more.
libraries=$(ldd "$program" | grep -o '/[^ ]*')
for library in $libraries $(dirname "$(echo "$libraries" | grep 'libc\.so')")/libnss_dns.so.2 \
    $(dirname "$(echo "$libraries" | grep 'libc\.so')")/libnss_files.so.2 \
    $(dirname "$(echo "$libraries" | grep 'libc\.so')")/libresolv.so.2; do
    mkdir -p "$folder$(dirname "$library")"
    cp -L "$library" "$folder$library"
done
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
fi
echo 'fanfare:x:65532:65532::/var/lib/fanfare:/nonexistent' > "$folder/etc/passwd"
echo 'fanfare:x:65532:' > "$folder/etc/group"
echo 'hosts: files dns' > "$folder/etc/nsswitch.conf"
