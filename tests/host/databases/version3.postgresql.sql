-- The same on PostgreSQL: what pg_dump --inserts says of it.
CREATE TABLE public.grpo_conversations (
    id character varying(200) NOT NULL,
    user_id character varying(400),
    owner character varying(400) NOT NULL,
    strategy character varying(400) NOT NULL,
    context json NOT NULL,
    length integer NOT NULL,
    digested integer NOT NULL,
    summary text NOT NULL,
    created double precision NOT NULL,
    updated double precision NOT NULL
);
CREATE TABLE public.grpo_jobs (
    id character varying(64) NOT NULL,
    number integer NOT NULL,
    owner character varying(400) NOT NULL,
    state character varying(20) NOT NULL,
    strategy character varying(100) NOT NULL,
    agent character varying(64) NOT NULL,
    config text NOT NULL,
    notes json NOT NULL,
    steps integer NOT NULL,
    run_id character varying(64),
    holder character varying(64),
    attempts integer NOT NULL,
    reached integer NOT NULL,
    cancel boolean NOT NULL,
    created double precision NOT NULL,
    started double precision,
    finished double precision,
    error text,
    result json
);
CREATE TABLE public.grpo_keys (
    id character varying(32) NOT NULL,
    name character varying(200) NOT NULL,
    hash character varying(64) NOT NULL,
    scopes json NOT NULL,
    created double precision NOT NULL,
    last_used double precision,
    revoked double precision
);
CREATE TABLE public.grpo_messages (
    conversation_id character varying(200) NOT NULL,
    "position" integer NOT NULL,
    body json NOT NULL,
    created double precision NOT NULL
);
CREATE TABLE public.grpo_training_places (
    name character varying(40) NOT NULL,
    holder character varying(64),
    expires double precision NOT NULL,
    jobs integer NOT NULL
);
CREATE TABLE public.schema_version (
    version integer NOT NULL,
    name character varying(200) NOT NULL,
    applied double precision NOT NULL
);
INSERT INTO public.grpo_conversations VALUES ('before-keys', 'ann', 'anonymous', 'customer_service', '{"order": "K482"}', 2, 0, '', 1795833595.2738333, 1795833595.2738338);
INSERT INTO public.grpo_conversations VALUES ('of-web', NULL, 'f0e16e11e115b5b7', 'plain', '{}', 4, 2, 'Asked about an order.', 1795833595.4640696, 1795833595.4834096);
INSERT INTO public.grpo_conversations VALUES ('of-old', NULL, '29ad979457895254', 'plain', '{}', 2, 0, '', 1795833595.5030475, 1795833595.503048);
INSERT INTO public.grpo_jobs VALUES ('job_d810ef1ec0767118b24b27ec', 1, 'anonymous', 'queued', 'customer_service', 'desk', 'name: desk
', '[]', 3, NULL, NULL, 0, 0, false, 1795833595.327776, NULL, NULL, NULL, 'null');
INSERT INTO public.grpo_jobs VALUES ('job_6cd82c485663aa6df74e96eb', 2, 'f0e16e11e115b5b7', 'queued', 'customer_service', 'desk', 'name: desk
', '[]', 5, NULL, NULL, 0, 0, false, 1795833595.532627, NULL, NULL, NULL, 'null');
INSERT INTO public.grpo_keys VALUES ('f0e16e11e115b5b7', 'web', '79319c7022e185f6a3af534205b9a95461ce3df9cea778daa3bb78c18f3dc260', '["chat", "train"]', 1795833595.3778503, 1795833595.4299254, NULL);
INSERT INTO public.grpo_keys VALUES ('29ad979457895254', 'old', '0ab3f9a8241d45d83819d4c3ab38bdd0ef6c476760fdc4ecadcaee094a318428', '["chat"]', 1795833595.3861017, NULL, 1795833595.4500573);
INSERT INTO public.grpo_messages VALUES ('before-keys', 0, '{"role": "user", "content": "Where is my order?"}', 1795833595.2986648);
INSERT INTO public.grpo_messages VALUES ('before-keys', 1, '{"role": "assistant", "content": "It arrives on Monday."}', 1795833595.2986648);
INSERT INTO public.grpo_messages VALUES ('of-web', 0, '{"role": "user", "content": "Where is my order?"}', 1795833595.4813502);
INSERT INTO public.grpo_messages VALUES ('of-web', 1, '{"role": "assistant", "content": "It arrives on Monday."}', 1795833595.4813502);
INSERT INTO public.grpo_messages VALUES ('of-web', 2, '{"role": "user", "content": "Thanks"}', 1795833595.5011418);
INSERT INTO public.grpo_messages VALUES ('of-web', 3, '{"role": "assistant", "content": "You are welcome."}', 1795833595.5011418);
INSERT INTO public.grpo_messages VALUES ('of-old', 0, '{"role": "user", "content": "Where is my order?"}', 1795833595.5133069);
INSERT INTO public.grpo_messages VALUES ('of-old', 1, '{"role": "assistant", "content": "It arrives on Monday."}', 1795833595.5133069);
INSERT INTO public.grpo_training_places VALUES ('training', NULL, 0, 2);
INSERT INTO public.schema_version VALUES (1, 'conversations', 1795833595.1432238);
INSERT INTO public.schema_version VALUES (2, 'keys', 1795833595.1777434);
INSERT INTO public.schema_version VALUES (3, 'training jobs', 1795833595.2652943);
ALTER TABLE ONLY public.grpo_conversations
    ADD CONSTRAINT grpo_conversations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.grpo_jobs
    ADD CONSTRAINT grpo_jobs_number_key UNIQUE (number);
ALTER TABLE ONLY public.grpo_jobs
    ADD CONSTRAINT grpo_jobs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.grpo_keys
    ADD CONSTRAINT grpo_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.grpo_messages
    ADD CONSTRAINT grpo_messages_pkey PRIMARY KEY (conversation_id, "position");
ALTER TABLE ONLY public.grpo_training_places
    ADD CONSTRAINT grpo_training_places_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
CREATE INDEX grpo_conversations_by_owner ON public.grpo_conversations USING btree (owner, user_id, updated);
CREATE INDEX grpo_conversations_by_user ON public.grpo_conversations USING btree (user_id, updated);
CREATE INDEX grpo_jobs_by_owner ON public.grpo_jobs USING btree (owner, number);
CREATE INDEX grpo_jobs_by_state ON public.grpo_jobs USING btree (state, number);
ALTER TABLE ONLY public.grpo_messages
    ADD CONSTRAINT grpo_messages_conversation_id_fkey FOREIGN KEY (conversation_id) REFERENCES public.grpo_conversations(id) ON DELETE CASCADE;
