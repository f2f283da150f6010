#!/bin/sh
# As the official image starts: settings from /etc/rabbitmq/conf.d, data in /var/lib/rabbitmq. Reached by the same name
# from inside and outside.
set -eu
export RABBITMQ_CONFIG_FILES=/etc/rabbitmq/conf.d RABBITMQ_LOGS=-
chown -R rabbitmq:rabbitmq /var/lib/rabbitmq
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server
