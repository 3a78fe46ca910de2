-- A database as the code of November 2026 left it (schema version 3): python's iterdump of it.
BEGIN TRANSACTION;
CREATE TABLE grpo_conversations (
	id VARCHAR(200) NOT NULL,
	user_id VARCHAR(400),
	owner VARCHAR(400) NOT NULL,
	strategy VARCHAR(400) NOT NULL,
	context JSON NOT NULL,
	length INTEGER NOT NULL,
	digested INTEGER NOT NULL,
	summary TEXT NOT NULL,
	created DOUBLE NOT NULL,
	updated DOUBLE NOT NULL,
	PRIMARY KEY (id)
);
INSERT INTO "grpo_conversations" VALUES('before-keys','ann','anonymous','customer_service','{"order": "K482"}',2,0,'',1.79583353079194808004e+09,1795833530.79195);
INSERT INTO "grpo_conversations" VALUES('of-web',NULL,'f0e16e11e115b5b7','plain','{}',4,2,'Asked about an order.',1.79583353172851562505e+09,1.79583353175281953809e+09);
INSERT INTO "grpo_conversations" VALUES('of-old',NULL,'29ad979457895254','plain','{}',2,0,'',1.79583353176678967477e+09,1.79583353176679039004e+09);
CREATE TABLE grpo_jobs (
	id VARCHAR(64) NOT NULL,
	number INTEGER NOT NULL,
	owner VARCHAR(400) NOT NULL,
	state VARCHAR(20) NOT NULL,
	strategy VARCHAR(100) NOT NULL,
	agent VARCHAR(64) NOT NULL,
	config TEXT NOT NULL,
	notes JSON NOT NULL,
	steps INTEGER NOT NULL,
	run_id VARCHAR(64),
	holder VARCHAR(64),
	attempts INTEGER NOT NULL,
	reached INTEGER NOT NULL,
	cancel BOOLEAN NOT NULL,
	created DOUBLE NOT NULL,
	started DOUBLE,
	finished DOUBLE,
	error TEXT,
	result JSON,
	PRIMARY KEY (id),
	UNIQUE (number)
);
INSERT INTO "grpo_jobs" VALUES('job_d1c4ac62b7b890a8ea812953',1,'anonymous','queued','customer_service','desk','name: desk
','[]',3,NULL,NULL,0,0,0,1.7958335314249193668e+09,NULL,NULL,NULL,'null');
INSERT INTO "grpo_jobs" VALUES('job_77b551218ed918c012f0966d',2,'f0e16e11e115b5b7','queued','customer_service','desk','name: desk
','[]',5,NULL,NULL,0,0,0,1.79583353179077649121e+09,NULL,NULL,NULL,'null');
CREATE TABLE grpo_keys (
	id VARCHAR(32) NOT NULL,
	name VARCHAR(200) NOT NULL,
	hash VARCHAR(64) NOT NULL,
	scopes JSON NOT NULL,
	created DOUBLE NOT NULL,
	last_used DOUBLE,
	revoked DOUBLE,
	PRIMARY KEY (id)
);
INSERT INTO "grpo_keys" VALUES('f0e16e11e115b5b7','web','79319c7022e185f6a3af534205b9a95461ce3df9cea778daa3bb78c18f3dc260','["chat", "train"]',1.79583353145223712917e+09,1.79583353168500542643e+09,NULL);
INSERT INTO "grpo_keys" VALUES('29ad979457895254','old','0ab3f9a8241d45d83819d4c3ab38bdd0ef6c476760fdc4ecadcaee094a318428','["chat"]',1.79583353145895028117e+09,NULL,1.79583353172002577777e+09);
CREATE TABLE grpo_messages (
	conversation_id VARCHAR(200) NOT NULL,
	position INTEGER NOT NULL,
	body JSON NOT NULL,
	created DOUBLE NOT NULL,
	PRIMARY KEY (conversation_id, position),
	FOREIGN KEY(conversation_id) REFERENCES grpo_conversations (id) ON DELETE CASCADE
);
INSERT INTO "grpo_messages" VALUES('before-keys',0,'{"role": "user", "content": "Where is my order?"}',1.79583353098212122923e+09);
INSERT INTO "grpo_messages" VALUES('before-keys',1,'{"role": "assistant", "content": "It arrives on Monday."}',1.79583353098212122923e+09);
INSERT INTO "grpo_messages" VALUES('of-web',0,'{"role": "user", "content": "Where is my order?"}',1.79583353173008394244e+09);
INSERT INTO "grpo_messages" VALUES('of-web',1,'{"role": "assistant", "content": "It arrives on Monday."}',1.79583353173008394244e+09);
INSERT INTO "grpo_messages" VALUES('of-web',2,'{"role": "user", "content": "Thanks"}',1.79583353175525856017e+09);
INSERT INTO "grpo_messages" VALUES('of-web',3,'{"role": "assistant", "content": "You are welcome."}',1.79583353175525856017e+09);
INSERT INTO "grpo_messages" VALUES('of-old',0,'{"role": "user", "content": "Where is my order?"}',1.79583353177105331426e+09);
INSERT INTO "grpo_messages" VALUES('of-old',1,'{"role": "assistant", "content": "It arrives on Monday."}',1.79583353177105331426e+09);
CREATE TABLE grpo_training_places (
	name VARCHAR(40) NOT NULL,
	holder VARCHAR(64),
	expires DOUBLE NOT NULL,
	jobs INTEGER NOT NULL,
	PRIMARY KEY (name)
);
INSERT INTO "grpo_training_places" VALUES('training',NULL,0.0,2);
CREATE TABLE schema_version (
	version INTEGER NOT NULL,
	name VARCHAR(200) NOT NULL,
	applied DOUBLE NOT NULL,
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1,'conversations',1.79583352987404799459e+09);
INSERT INTO "schema_version" VALUES(2,'keys',1.79583353013501787181e+09);
INSERT INTO "schema_version" VALUES(3,'training jobs',1.79583353073418855666e+09);
CREATE INDEX grpo_conversations_by_user ON grpo_conversations (user_id, updated);
CREATE INDEX grpo_conversations_by_owner ON grpo_conversations (owner, user_id, updated);
CREATE INDEX grpo_jobs_by_state ON grpo_jobs (state, number);
CREATE INDEX grpo_jobs_by_owner ON grpo_jobs (owner, number);
COMMIT;
