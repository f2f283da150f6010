# Stand-ins for the official images of PostgreSQL and RabbitMQ where no registry can be reached: the same paths, the same
# variables as far as docker-compose.yml uses them. For tests only.
ARG SERVERS_IMAGE
FROM ${SERVERS_IMAGE} AS postgres
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY postgres.sh /usr/local/bin/
VOLUME /var/lib/postgresql/data
EXPOSE 5432
ENTRYPOINT ["postgres.sh"]

FROM ${SERVERS_IMAGE} AS rabbitmq
ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/var/lib/rabbitmq LANG=C.UTF-8
COPY rabbitmq.sh /usr/local/bin/
VOLUME /var/lib/rabbitmq
EXPOSE 5672
ENTRYPOINT ["rabbitmq.sh"]
