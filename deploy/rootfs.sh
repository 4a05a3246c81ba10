#!/bin/sh
# Collects what the program needs at run time into a folder: itself, its shared libraries, certificates, one user.
#   deploy/rootfs.sh PROGRAM FOLDER
set -eu
program=$1
folder=$2
rm -rf "$folder"
mkdir -p "$folder/usr/bin" "$folder/etc/ssl/certs" "$folder/var/lib/fanfare" "$folder/tmp"
cp "$program" "$folder/usr/bin/fanfare"
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
chmod 1777 "$folder/tmp"
chown -R 65532:65532 "$folder/var/lib/fanfare" 2>/dev/null || chmod 0777 "$folder/var/lib/fanfare"
