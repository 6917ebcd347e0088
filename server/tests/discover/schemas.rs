//! Two schemas of the kinds that are met: a shop, whose tables all count from 1, and a content system with UUIDs, camel case,
//! composite keys, a self reference and a polymorphic pair. The rows are computed, so that each run sees the same ones.

use std::fmt::Write as _;

/// A value that spreads well over its input.
pub(crate) fn mixed(seed: u64, value: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(value.wrapping_mul(0xBF58_476D_1CE4_E5B9));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A UUID of a kind and a number, as a literal.
pub(crate) fn uuid(kind: u64, number: u64) -> String {
    let (high, low) = (mixed(kind, number), mixed(kind + 1_000, number));
    let text = format!("{high:016x}{low:016x}");
    format!(
        "'{}-{}-{}-{}-{}'",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    )
}

/// INSERT of `rows` rows.
pub(crate) fn insert(table: &str, rows: u64, mut row: impl FnMut(u64) -> String) -> String {
    let mut sql = String::new();
    let all: Vec<String> = (1..=rows).map(|number| format!("({})", row(number))).collect();
    for chunk in all.chunks(400) {
        writeln!(sql, "INSERT INTO {table} VALUES {};", chunk.join(", ")).expect("a string");
    }
    sql
}

/// Number of a parent among `parents`; each tenth child names one that is gone, each thirteenth none.
fn parent(seed: u64, number: u64, parents: u64) -> String {
    match number {
        _ if number.is_multiple_of(13) => "NULL".to_owned(),
        _ if number.is_multiple_of(10) => (parents + 1 + mixed(seed, number) % 20).to_string(),
        _ => (1 + mixed(seed, number) % parents).to_string(),
    }
}

fn uuid_parent(kind: u64, seed: u64, number: u64, parents: u64) -> String {
    match parent(seed, number, parents).parse::<u64>() {
        Ok(number) => uuid(kind, number),
        Err(_) => "NULL".to_owned(),
    }
}

const SHOP: &str = "
CREATE TABLE countries (code varchar(2) PRIMARY KEY, name text NOT NULL);
CREATE TABLE customers (id integer PRIMARY KEY, email text NOT NULL, name text, country_code varchar(2), legacy_id integer, created_at {instant});
CREATE UNIQUE INDEX customers_email ON customers (email);
CREATE TABLE addresses (id integer PRIMARY KEY, customer_id integer, line text, country_code varchar(2), position integer);
CREATE TABLE categories (id integer PRIMARY KEY, name text, parent_id integer);
CREATE TABLE brands (id integer PRIMARY KEY, name text);
CREATE TABLE products (id integer PRIMARY KEY, sku text NOT NULL, category_id integer, brand_id integer, tax_class_id integer, rating integer);
CREATE UNIQUE INDEX products_sku ON products (sku);
CREATE TABLE coupons (id integer PRIMARY KEY, code text, valid_until {instant});
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, billing_address_id integer, shipping_address_id integer, status_id integer, coupon_id integer, external_id integer, created_at {instant});
CREATE TABLE order_items (order_id integer NOT NULL, line_no integer NOT NULL, product_id integer, quantity integer, PRIMARY KEY (order_id, line_no));
CREATE TABLE shipments (id integer PRIMARY KEY, order_id integer, line_no integer, carrier_id integer, sort_order integer);
CREATE TABLE reviews (id integer PRIMARY KEY, product_id integer, customer_id integer, rating integer, reply_count integer);
CREATE TABLE carts (id integer PRIMARY KEY, customer_id integer, php_session_id text, expires_at {instant});
CREATE TABLE warehouses (id integer PRIMARY KEY, name text);
CREATE TABLE stock_levels (product_id integer PRIMARY KEY, warehouse_id integer, level integer);
CREATE TABLE newsletter_subscriptions (id integer PRIMARY KEY, email text, created_at {instant});
";

/// The shop. `status_id`, `tax_class_id`, `carrier_id`, `legacy_id`, `external_id` name nothing in this database, and their values
/// are found in every table of it.
pub(crate) fn shop() -> String {
    let code = |number: u64| {
        let letter = |number: u64| char::from(b'A' + u8::try_from(number % 26).expect("a letter"));
        format!("'{}{}'", letter(number), letter(number / 26))
    };
    let day = |number: u64| format!("'2024-0{}-1{} 10:00:00'", 1 + number % 9, number % 9);
    let mut sql = SHOP.to_owned();
    sql += &insert("countries", 60, |n| format!("{}, 'Country {n}'", code(n)));
    sql += &insert("customers", 400, |n| {
        format!(
            "{n}, 'c{n}@example.org', 'Customer {n}', {}, {}, {}",
            code(1 + mixed(1, n) % 66),
            1 + mixed(2, n) % 300,
            day(n)
        )
    });
    sql += &insert("addresses", 500, |n| {
        format!(
            "{n}, {}, 'Street {n}', {}, {}",
            parent(3, n, 400),
            code(1 + mixed(4, n) % 60),
            n % 4
        )
    });
    sql += &insert("categories", 40, |n| {
        let parent = if n < 6 {
            "NULL".to_owned()
        } else {
            (1 + mixed(5, n) % 5).to_string()
        };
        format!("{n}, 'Category {n}', {parent}")
    });
    sql += &insert("brands", 30, |n| format!("{n}, 'Brand {n}'"));
    sql += &insert("products", 300, |n| {
        format!(
            "{n}, 'SKU-{n:06}', {}, {}, {}, {}",
            parent(6, n, 40),
            parent(7, n, 30),
            1 + n % 3,
            1 + n % 5
        )
    });
    sql += &insert("coupons", 50, |n| format!("{n}, 'SAVE{n}', {}", day(n)));
    sql += &insert("orders", 600, |n| {
        format!(
            "{n}, {}, {}, {}, {}, {}, {}, {}",
            parent(8, n, 400),
            parent(9, n, 500),
            parent(10, n, 500),
            1 + n % 6,
            parent(11, n, 50),
            1 + mixed(12, n) % 600,
            day(n)
        )
    });
    sql += &insert("order_items", 900, |n| {
        format!(
            "{}, {}, {}, {}",
            1 + (n - 1) / 2 + if n % 50 == 0 { 700 } else { 0 },
            1 + n % 2,
            parent(13, n, 300),
            1 + n % 4
        )
    });
    sql += &insert("shipments", 400, |n| {
        let gone = n.is_multiple_of(10);
        let order = if gone { 5_000 + n } else { 1 + mixed(14, n) % 450 };
        format!("{n}, {order}, {}, {}, {}", 1 + n % 2, 1 + n % 7, 1 + n % 9)
    });
    sql += &insert("reviews", 500, |n| {
        format!(
            "{n}, {}, {}, {}, {}",
            parent(15, n, 300),
            parent(16, n, 400),
            1 + n % 5,
            n % 12
        )
    });
    sql += &insert("carts", 200, |n| {
        format!("{n}, {}, '{:016x}', {}", parent(17, n, 400), mixed(18, n), day(n))
    });
    sql += &insert("warehouses", 12, |n| format!("{n}, 'Warehouse {n}'"));
    sql += &insert("stock_levels", 280, |n| {
        format!("{n}, {}, {}", parent(19, n, 12), mixed(20, n) % 50)
    });
    sql += &insert("newsletter_subscriptions", 150, |n| {
        let customer = if n % 2 == 0 {
            format!("c{n}@example.org")
        } else {
            format!("reader{n}@example.org")
        };
        format!("{n}, '{customer}', {}", day(n))
    });
    sql
}

/// Relations of the shop.
pub(crate) const SHOP_EXPECTED: &[&str] = &[
    "orphan customers.country_code -> countries.code",
    "orphan addresses.customer_id -> customers.id",
    "orphan addresses.country_code -> countries.code",
    "orphan categories.parent_id -> categories.id",
    "orphan products.category_id -> categories.id",
    "orphan products.brand_id -> brands.id",
    "orphan orders.customer_id -> customers.id",
    "orphan orders.billing_address_id -> addresses.id",
    "orphan orders.shipping_address_id -> addresses.id",
    "orphan orders.coupon_id -> coupons.id",
    "orphan order_items.order_id -> orders.id",
    "orphan order_items.product_id -> products.id",
    "orphan shipments.order_id -> orders.id",
    "orphan shipments.order_id+line_no -> order_items.order_id+line_no",
    "orphan reviews.product_id -> products.id",
    "orphan reviews.customer_id -> customers.id",
    "orphan carts.customer_id -> customers.id",
    "orphan stock_levels.product_id -> products.id",
    "orphan stock_levels.warehouse_id -> warehouses.id",
];

/// What else is right about the shop: carts are of no use once they have expired; whether coupons are, is their owner's to say.
pub(crate) const SHOP_RIGHT: &[&str] = &["expired carts.expires_at"];

const CMS: &str = r#"
CREATE TABLE "Users" ("id" {uuid} PRIMARY KEY, "userName" text NOT NULL);
CREATE TABLE "Authors" ("id" {uuid} PRIMARY KEY, "userId" {uuid}, "avatarPath" text);
CREATE TABLE "Categories" ("id" {uuid} PRIMARY KEY, "parentId" {uuid}, "title" text);
CREATE TABLE "BlogPosts" ("postId" {uuid} PRIMARY KEY, "authorId" {uuid}, "categoryId" {uuid}, "editorId" {uuid}, "title" text, "createdAt" {instant});
CREATE TABLE "Tags" ("id" {uuid} PRIMARY KEY, "label" text);
CREATE TABLE "PostTags" ("postId" {uuid} NOT NULL, "tagId" {uuid} NOT NULL, PRIMARY KEY ("postId", "tagId"));
CREATE TABLE "Revisions" ("postId" {uuid} NOT NULL, "revisionNo" integer NOT NULL, "body" text, PRIMARY KEY ("postId", "revisionNo"));
CREATE TABLE "RevisionNotes" ("id" {uuid} PRIMARY KEY, "postId" {uuid}, "revisionNo" integer, "note" text);
CREATE TABLE "MediaAssets" ("id" {uuid} PRIMARY KEY, "fileName" text, "uploadedBy" {uuid}, "checksumKey" text);
CREATE TABLE "Comments" ("id" {uuid} PRIMARY KEY, "commentableType" text, "commentableId" {uuid}, "userId" {uuid}, "inReplyTo" {uuid}, "requestId" {uuid});
CREATE TABLE "LoginSessions" ("sessionToken" text PRIMARY KEY, "userId" {uuid}, "expiresAt" {instant});
CREATE TABLE "Tenants" ("id" integer PRIMARY KEY, "name" text);
CREATE TABLE "Invoices" ("tenantId" integer NOT NULL, "id" integer NOT NULL, "total" integer, PRIMARY KEY ("tenantId", "id"));
CREATE TABLE "InvoiceLines" ("lineId" integer PRIMARY KEY, "tenantId" integer, "invoiceId" integer, "amount" integer);
CREATE TABLE "AuditTrail" ("id" integer PRIMARY KEY, "occurredAt" {instant}, "actorId" {uuid}, "correlationId" {uuid}, "message" text);
"#;

/// The content system. `requestId` and `correlationId` name nothing here.
pub(crate) fn cms() -> String {
    let day = |number: u64| format!("'2024-0{}-1{} 10:00:00'", 1 + number % 9, number % 9);
    let mut sql = CMS.to_owned();
    sql += &insert("\"Users\"", 120, |n| format!("{}, 'user{n}'", uuid(1, n)));
    sql += &insert("\"Authors\"", 40, |n| {
        format!("{}, {}, 'img/{n}.png'", uuid(2, n), uuid_parent(1, 1, n, 120))
    });
    sql += &insert("\"Categories\"", 50, |n| {
        let parent = if n < 8 { "NULL".to_owned() } else { uuid_parent(3, 2, n, 7) };
        format!("{}, {parent}, 'Category {n}'", uuid(3, n))
    });
    sql += &insert("\"BlogPosts\"", 300, |n| {
        format!(
            "{}, {}, {}, {}, 'Post {n}', {}",
            uuid(4, n),
            uuid_parent(2, 3, n, 40),
            uuid_parent(3, 4, n, 50),
            uuid_parent(1, 5, n, 120),
            day(n)
        )
    });
    sql += &insert("\"Tags\"", 30, |n| format!("{}, 'tag {n}'", uuid(5, n)));
    sql += &insert("\"PostTags\"", 400, |n| {
        format!("{}, {}", uuid(4, 1 + n % 320), uuid(5, 1 + n % 33))
    });
    sql += &insert("\"Revisions\"", 500, |n| {
        format!("{}, {}, 'text {n}'", uuid(4, 1 + n / 3), 1 + n % 3)
    });
    sql += &insert("\"RevisionNotes\"", 200, |n| {
        format!(
            "{}, {}, {}, 'note {n}'",
            uuid(6, n),
            uuid(4, 1 + n / 3 + if n % 10 == 0 { 400 } else { 0 }),
            1 + n % 3
        )
    });
    sql += &insert("\"MediaAssets\"", 150, |n| {
        format!(
            "{}, 'uploads/{n}.jpg', {}, '{:016x}'",
            uuid(7, n),
            uuid_parent(1, 6, n, 120),
            mixed(30, n)
        )
    });
    sql += &insert("\"Comments\"", 400, |n| {
        let (kind, id) = if n % 2 == 0 {
            ("BlogPost", uuid(4, 1 + n % 300))
        } else {
            ("MediaAsset", uuid(7, 1 + n % 150))
        };
        let reply = if n < 100 {
            "NULL".to_owned()
        } else {
            uuid(8, n - 99 + if n % 20 == 0 { 5_000 } else { 0 })
        };
        format!(
            "{}, '{kind}', {id}, {}, {reply}, {}",
            uuid(8, n),
            uuid_parent(1, 7, n, 120),
            uuid(9, n)
        )
    });
    sql += &insert("\"LoginSessions\"", 100, |n| {
        format!("'{:032x}', {}, {}", mixed(31, n), uuid_parent(1, 8, n, 120), day(n))
    });
    sql += &insert("\"Tenants\"", 10, |n| format!("{n}, 'Tenant {n}'"));
    sql += &insert("\"Invoices\"", 200, |n| format!("{}, {}, {n}", 1 + n % 10, 1 + n / 10));
    sql += &insert("\"InvoiceLines\"", 400, |n| {
        let invoice = 1 + mixed(32, n) % 20;
        format!(
            "{n}, {}, {}, {n}",
            1 + mixed(33, n) % 10,
            invoice + if n % 10 == 0 { 90 } else { 0 }
        )
    });
    sql += &insert("\"AuditTrail\"", 300, |n| {
        format!(
            "{n}, {}, {}, {}, 'message {n}'",
            day(n),
            uuid_parent(1, 9, n, 120),
            uuid(10, n)
        )
    });
    sql
}

/// Relations of the content system.
pub(crate) const CMS_EXPECTED: &[&str] = &[
    "orphan Authors.userId -> Users.id",
    "orphan Categories.parentId -> Categories.id",
    "orphan BlogPosts.authorId -> Authors.id",
    "orphan BlogPosts.categoryId -> Categories.id",
    "orphan BlogPosts.editorId -> Users.id",
    "orphan PostTags.postId -> BlogPosts.postId",
    "orphan PostTags.tagId -> Tags.id",
    "orphan Revisions.postId -> BlogPosts.postId",
    "orphan RevisionNotes.postId -> BlogPosts.postId",
    "orphan RevisionNotes.postId+revisionNo -> Revisions.postId+revisionNo",
    "orphan MediaAssets.uploadedBy -> Users.id",
    "orphan Comments.userId -> Users.id",
    "orphan Comments.inReplyTo -> Comments.id",
    "orphan LoginSessions.userId -> Users.id",
    "orphan Invoices.tenantId -> Tenants.id",
    "orphan InvoiceLines.tenantId -> Tenants.id",
    "orphan InvoiceLines.tenantId+invoiceId -> Invoices.tenantId+id",
    "orphan AuditTrail.actorId -> Users.id",
    "expired LoginSessions.expiresAt",
];

/// What else is right about the content system.
pub(crate) const CMS_RIGHT: &[&str] = &["expired AuditTrail.occurredAt"];
