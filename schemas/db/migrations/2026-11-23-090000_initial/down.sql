DROP TABLE dead_letter, host_obligation, allocation, outbox, saga_history, saga, migration, port, instance, service,
    host, network, image, flavor;
DROP FUNCTION allocation_count();
