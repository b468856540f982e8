-- The shop's own tables, in the database of the engine but in a schema of their own.
-- Whatever must never be is a constraint; whatever a step does has a key, so that it cannot be done twice.

CREATE SCHEMA shop;

CREATE TABLE shop.products (
    sku text PRIMARY KEY,
    name text NOT NULL,
    unit_price_cents integer NOT NULL CHECK (unit_price_cents > 0),
    weight_grams integer NOT NULL CHECK (weight_grams > 0)
);

CREATE TABLE shop.stock (
    sku text PRIMARY KEY REFERENCES shop.products,
    received integer NOT NULL CHECK (received >= 0),
    quantity integer NOT NULL CHECK (quantity >= 0),
    CHECK (quantity <= received)
);
COMMENT ON COLUMN shop.stock.received IS 'What the warehouse was given at first.';
COMMENT ON COLUMN shop.stock.quantity IS 'What is there and promised to nobody.';

CREATE TABLE shop.orders (
    order_id text PRIMARY KEY,
    task_uuid uuid NOT NULL,
    customer_id text NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'fulfilled', 'refused')),
    refusal text,
    subtotal_cents integer CHECK (subtotal_cents > 0),
    shipping_cents integer CHECK (shipping_cents >= 0),
    tax_cents integer CHECK (tax_cents >= 0),
    weight_grams integer CHECK (weight_grams > 0),
    total_cents integer GENERATED ALWAYS AS (subtotal_cents + shipping_cents + tax_cents) STORED,
    closed_at timestamptz,
    CHECK ((state = 'refused') = (refusal IS NOT NULL)),
    CHECK ((state = 'open') = (closed_at IS NULL)),
    CHECK (state <> 'fulfilled' OR total_cents IS NOT NULL)
);
COMMENT ON COLUMN shop.orders.total_cents IS 'Empty for an order that was refused before it had a price.';

CREATE TABLE shop.reservations (
    order_id text NOT NULL REFERENCES shop.orders,
    sku text NOT NULL REFERENCES shop.stock,
    quantity integer NOT NULL CHECK (quantity > 0),
    state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'released', 'shipped')),
    PRIMARY KEY (order_id, sku)
);

CREATE TABLE shop.ledger_transactions (
    transaction_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL REFERENCES shop.orders,
    kind text NOT NULL CHECK (kind IN ('payment', 'refund')),
    at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (order_id, kind)
);

CREATE TABLE shop.ledger_entries (
    transaction_id bigint NOT NULL REFERENCES shop.ledger_transactions,
    account text NOT NULL CHECK (account IN ('card_receivables', 'sales', 'shipping', 'tax')),
    amount_cents integer NOT NULL CHECK (amount_cents <> 0),
    PRIMARY KEY (transaction_id, account)
);
COMMENT ON TABLE shop.ledger_entries IS 'Double entry: debits above, credits below zero; each transaction adds up to zero.';

CREATE FUNCTION shop.check_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT sum(amount_cents) FROM shop.ledger_entries WHERE transaction_id = NEW.transaction_id) <> 0 THEN
        RAISE EXCEPTION 'ledger transaction % does not balance', NEW.transaction_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

-- Deferred: a transaction is written entry by entry, and must balance when it commits.
CREATE CONSTRAINT TRIGGER balance AFTER INSERT OR UPDATE ON shop.ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.check_balance();

CREATE TABLE shop.shipments (
    order_id text PRIMARY KEY REFERENCES shop.orders,
    carrier text NOT NULL,
    tracking_number text NOT NULL UNIQUE,
    parcels integer NOT NULL CHECK (parcels > 0),
    shipped_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shop.outbox (
    message_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL REFERENCES shop.orders,
    channel text NOT NULL CHECK (channel IN ('email', 'sms', 'warehouse')),
    recipient text NOT NULL,
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (order_id, channel)
);
COMMENT ON TABLE shop.outbox IS 'What is to be sent, committed with the step that says so; a relay would send it.';

CREATE TABLE shop.loyalty_accounts (
    customer_id text PRIMARY KEY,
    points integer NOT NULL CHECK (points >= 0)
);

CREATE TABLE shop.steps_done (
    order_id text NOT NULL,
    step text NOT NULL,
    outcome jsonb,
    runs integer NOT NULL DEFAULT 1,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, step)
);
COMMENT ON TABLE shop.steps_done IS
    'What each step of each order came to, written in the transaction that did its work: a second run finds it.';
